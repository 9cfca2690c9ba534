"""Schedules: what they keep, what they cost, and how they are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttsnap.errors import UserError
from ttsnap.schedule import (
    Check,
    CostModel,
    Schedule,
    affords,
    budget_range,
    check_steps,
    keep_best,
    planned_schedule,
    read_plan,
)

COSTS = CostModel(denoise=2.0, decode=0.5, reward=0.25, steps=5)
PUBLISHED = Schedule.parse("2:0.4,6:0.4,11:0.5")

schedules = st.lists(st.tuples(st.integers(0, 18), st.floats(0.01, 1)), max_size=4).map(
    lambda pairs: Schedule(tuple(Check(*pair) for pair in sorted(dict(pairs).items())))
)


@pytest.mark.parametrize(
    ("count", "keep", "survivors"),
    [(10, 0.4, 4), (5, 0.5, 3), (7, 1.0, 7), (1, 0.01, 1), (3, 0.1, 1), (0, 0.5, 0)],
)
def test_survivors_are_rounded_and_never_none(count: int, keep: float, survivors: int) -> None:
    assert Check(0, keep).survivors(count) == survivors


def test_keep_best_orders_by_index_and_breaks_ties_to_the_lower_one() -> None:
    scores = np.array([1.0, 3.0, 2.0, 3.0, 2.0], dtype=np.float32)
    assert keep_best(scores, 2).tolist() == [1, 3]
    assert keep_best(scores, 3).tolist() == [1, 2, 3]
    assert keep_best(np.array([np.nan, 0.0, np.nan, -5.0]), 2).tolist() == [1, 3]


@given(schedules)
def test_a_schedule_survives_its_text(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text", ["2", "2:0.4:1", "a:0.5", "2:x", "4:0.5,2:0.5", "2:0.5,2:0.5", "2:0", "2:1.5", "-1:0.5"]
)
def test_a_bad_schedule_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="schedule"):
        Schedule.parse(text)


def test_cost_of_best_of_n() -> None:
    assert COSTS.cost(3) == 3 * (5 * 2.0 + 0.75)


def test_a_check_pays_one_evaluation_more_than_its_index() -> None:
    # Four candidates evaluated twice and looked at; two of them three times more, and once again.
    schedule = Schedule((Check(1, 0.5),))
    assert COSTS.cost(4, schedule) == 4 * (2 * 2.0 + 0.75) + 2 * (3 * 2.0 + 0.75)


def test_a_check_may_make_do_with_a_preview() -> None:
    costs = replace(COSTS, preview=0.125)
    schedule = Schedule((Check(1, 0.5),))
    saved = 4 * (COSTS.decode - 0.125)
    assert costs.cost(4, schedule) == COSTS.cost(4, schedule) - saved
    assert costs.cost(4) == COSTS.cost(4)


def test_published_accounting_pays_one_evaluation_less() -> None:
    published = CostModel(2.0, 0.5, 0.25, steps=5, accounting="ttsnap")
    schedule = Schedule((Check(1, 0.5),))
    assert published.cost(4, schedule) == 4 * (1 * 2.0 + 0.75) + 2 * (3 * 2.0 + 0.75)
    assert published.cost(3) == COSTS.cost(3)


def test_published_numbers_of_candidates() -> None:
    """Flux, 2,000 TFLOPs: 10 images for best-of-N and 38 for TTSnap (arXiv 2511.22242)."""
    flux = CostModel(denoise=9.9, decode=0.9, reward=0.3, steps=20, accounting="ttsnap")
    assert flux.largest_n(2000) == 10
    assert flux.largest_n(2000, PUBLISHED) == 38


def test_published_accounting_knows_no_whole_survivors() -> None:
    """The share alive is the product of the keep ratios, and n is what the budget divides into."""
    flux = CostModel(denoise=9.9, decode=0.9, reward=0.3, steps=20, accounting="ttsnap")
    one = 2 * 9.9 + 1.2 + 0.4 * (4 * 9.9 + 1.2) + 0.16 * (5 * 9.9 + 1.2) + 0.08 * (8 * 9.9 + 1.2)
    assert flux.cost(1, PUBLISHED) == pytest.approx(one)
    assert [flux.largest_n(budget, PUBLISHED) for budget in (400, 1200, 4000)] == [
        int(budget / one) for budget in (400, 1200, 4000)
    ]


@given(st.lists(st.integers(1, 300), min_size=2, max_size=5, unique=True))
def test_a_schedule_leaves_the_survivors_it_was_made_for(counts: list[int]) -> None:
    counts = sorted(counts, reverse=True)
    schedule = Schedule.leaving(range(len(counts) - 1), counts)
    assert schedule.counts(counts[0]) == counts


@given(st.floats(0, 5000), schedules)
def test_largest_n_fills_the_budget(budget: float, schedule: Schedule) -> None:
    costs = CostModel(denoise=9.9, decode=0.9, reward=0.3, steps=20)
    n = costs.largest_n(budget, schedule)
    assert affords(budget, costs.cost(n, schedule))
    assert not affords(budget, costs.cost(n + 1, schedule))


@given(
    st.integers(1, 300),
    st.tuples(*[st.floats(1e-5, 100)] * 3),
    st.integers(1, 60),
    schedules,
    st.integers(1, 100),
)
def test_a_budget_of_exactly_n_runs_buys_n(
    n: int, prices: tuple[float, float, float], steps: int, schedule: Schedule, parts: int
) -> None:
    """However the sum that makes the budget was rounded."""
    costs = CostModel(*prices, steps=steps)
    budget = sum([costs.cost(n) / parts] * parts)
    assert costs.largest_n(budget) == n
    assert costs.largest_n(costs.cost(1) * n) == n
    costs = CostModel(*prices, steps=20)
    spent = sum([costs.cost(n, schedule) / parts] * parts)
    assert costs.largest_n(spent, schedule) >= n


def test_budgets() -> None:
    assert budget_range("400:1000:200") == [400, 600, 800, 1000]
    assert budget_range("400:950:200") == [400, 600, 800]
    assert budget_range("0.1:0.5:0.1") == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert budget_range("0.5,2") == [0.5, 2]


@pytest.mark.parametrize(
    "text", ["", "a", "1:2", "1:2:0", "5:1:1", "1:nan:1", "-1,2", "1,inf", "0"]
)
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="budgets"):
        budget_range(text)


def test_a_check_at_the_last_step_saves_nothing_and_is_refused() -> None:
    check_steps(Schedule((Check(3, 0.5),)), steps=5)
    with pytest.raises(UserError, match=r"step 4 .* last useful step of 5 is 3"):
        check_steps(Schedule((Check(4, 0.5),)), steps=5)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """A plan for ``COSTS``, whose full run costs 10.75."""
    about = {"strategy": "ttsp", "reward": "a"}
    plans = [
        about | {"budget": budget, "n": 1, "checks": [{"step": step, "keep": 0.5}]}
        for step, budget in enumerate((20.0, 40.0))
    ]
    robust = [about | {"checks": [{"step": 3, "keep": 0.5}]}]
    prices = {"denoise": 2.0, "decode": 0.5, "reward": 0.25, "preview": None}
    whole = {"kind": "plan", "steps": 5, "unit": "TFLOPs", "costs": prices}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(whole | {"plans": plans, "robust": robust}))
    return path


def test_a_plan_is_for_its_reward_and_steps(plan_file: Path) -> None:
    plan = read_plan(plan_file)
    with pytest.raises(UserError, match="nothing for ttsp and b"):
        planned_schedule(plan, "ttsp", 20.0, reward="b", costs=COSTS)
    with pytest.raises(UserError, match="made for 5 steps, the sampler takes 6"):
        planned_schedule(plan, "ttsp", 20.0, reward="a", costs=replace(COSTS, steps=6))


@pytest.mark.parametrize(
    ("budget", "step"),
    [(20.0, 0), (16.5, 0), (29.0, 1), (40.0, 1), (49.0, 1), (15.0, 3), (51.0, 3)],
)
def test_a_budget_takes_the_nearest_plan_and_far_ones_the_robust(
    plan_file: Path, budget: float, step: int
) -> None:
    found = planned_schedule(read_plan(plan_file), "ttsp", budget, reward="a", costs=COSTS)
    assert found == ("ttsp", Schedule((Check(step, 0.5),)))


def test_budgets_in_other_units_are_compared_by_full_runs(plan_file: Path) -> None:
    evaluations = CostModel(denoise=1.0, decode=0.0, reward=0.0, steps=5, unit="NFE")
    runs = 40.0 / COSTS.cost(1)
    plan = read_plan(plan_file)
    found = planned_schedule(plan, "ttsp", 5 * runs, reward="a", costs=evaluations)
    assert found == ("ttsp", Schedule((Check(1, 0.5),)))


def test_a_plan_may_leave_a_strategy_to_another(plan_file: Path) -> None:
    plan = read_plan(plan_file)
    for one in plan["plans"]:
        one |= {"strategy": "ttsnap", "run_as": "ttsp@preview"}
    strategy, schedule = planned_schedule(plan, "ttsnap", 20.0, reward="a", costs=COSTS)
    assert (strategy, schedule.checks[0].step) == ("ttsp@preview", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "model"}, "kind: Input should be 'plan'"),
        ({"plans": [{"strategy": "ttsp"}]}, "plans.0.reward: Field required"),
        ({"steps": "5"}, "steps: Input should be a valid integer"),
        ({"costs": {}}, "costs.denoise: Field required"),
    ],
)
def test_what_is_no_plan_is_refused(plan_file: Path, change: dict, message: str) -> None:
    plan_file.write_text(json.dumps(json.loads(plan_file.read_text()) | change))
    with pytest.raises(UserError, match=f"plan.json: not a plan.*{message}"):
        read_plan(plan_file)


def test_a_plan_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no plan here"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(UserError, match="not a plan"):
        read_plan(tmp_path)
