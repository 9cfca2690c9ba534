import numpy as np
import pytest

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel
from ttsnap.simulation.experiment import TTSNAP, TTSP, Experiment
from ttsnap.simulation.montecarlo import Pool, Subsets
from ttsnap.simulation.planner import Design, Plan, Planner, planning_subsets
from ttsnap.simulation.source import RewardPair, pair
from ttsnap.simulation.strategies import plan_schedules

COSTS = CostModel(denoise=1.0, decode=0.1, reward=0.1, steps=8)
BUDGETS = [20.0, 40.0, 60.0]


def rewards(noise: float, prompts: int = 20, images: int = 40, seed: int = 0) -> np.ndarray:
    """Rewards whose early steps are the final ones plus noise that fades out."""
    rng = np.random.default_rng(seed)
    final = rng.normal(size=(prompts, images, 1))
    fade = np.linspace(1, 0, COSTS.steps)
    noises = noise * fade * rng.normal(size=(prompts, images, COSTS.steps))
    return (final + noises).astype(np.float32)


def planner(scores: np.ndarray, costs: CostModel = COSTS, steps: range = range(8)) -> Planner:
    final = scores[:, :, -1]
    return Planner(Pool(scores, final, Subsets(*final.shape, 256, 0)), costs, steps)


def shown(plans: list[Plan]) -> list[tuple[float, int, str]]:
    return [(one.budget, one.n, str(one.schedule)) for one in plans]


def test_a_plan_is_within_its_budget_and_better_than_best_of_n() -> None:
    found = planner(rewards(noise=1.0))
    for one in found.plans(BUDGETS):
        assert one.n == COSTS.largest_n(one.budget, one.schedule)
        assert COSTS.cost(one.n, one.schedule) <= one.budget
        assert one.schedule.checks
        unpruned = found.pool.search([], [COSTS.largest_n(one.budget)]).mean
        assert one.per_prompt.mean() > unpruned.mean() + 0.1


def test_no_schedule_of_one_check_is_better() -> None:
    found = planner(rewards(noise=1.0))
    (one,) = found.plans([40.0])
    best = -np.inf
    for step in range(7):
        first, last = COSTS.prices([step])
        for kept in range(1, 6):
            n = int((40.0 - kept * last) / first)
            if kept < n <= 40:
                best = max(best, found.pool.search([step], [n, kept]).mean.mean())
    assert one.per_prompt.mean() >= best - 0.01


def test_plans_are_the_same_every_time() -> None:
    scores = rewards(noise=1.0)
    first, second = (shown(list(planner(scores).plans(BUDGETS))) for _ in range(2))
    assert first == second


def test_early_rewards_that_say_nothing_are_not_believed() -> None:
    scores = rewards(noise=0.0, prompts=60)
    scores[:, :, :-1] = np.random.default_rng(1).normal(size=(60, 40, 7))
    plans = list(planner(scores).plans(BUDGETS))
    assert [len(one.schedule.checks) for one in plans].count(0) >= 2
    assert all(len(one.schedule.checks) <= 1 for one in plans)


def test_a_single_prompt_is_no_ground_for_pruning() -> None:
    (one,) = planner(rewards(noise=1.0, prompts=1)).plans([40.0])
    assert not one.schedule.checks


def test_a_perfect_early_reward_needs_one_early_check() -> None:
    scores = np.repeat(rewards(noise=0.0)[:, :, -1:], 8, axis=2)
    (one,) = planner(scores).plans([30.0])
    assert one.schedule.checks[0].step == 0
    assert one.schedule.counts(one.n)[-1] == 1


def test_checks_are_only_where_they_may_be() -> None:
    for one in planner(rewards(noise=0.5), steps=range(3, 5)).plans(BUDGETS):
        assert {check.step for check in one.schedule.checks} <= {3, 4}


def test_the_robust_schedule_is_good_at_all_budgets() -> None:
    found = planner(rewards(noise=1.0))
    plans = list(found.plans(BUDGETS))
    schedule = found.robust(plans)
    robust = np.mean([found.plan(budget, schedule).per_prompt.mean() for budget in BUDGETS])
    unpruned = np.mean(
        [found.pool.search([], [COSTS.largest_n(budget)]).mean.mean() for budget in BUDGETS]
    )
    own = np.mean([one.per_prompt.mean() for one in plans])
    assert unpruned + 0.1 < robust
    assert robust > own - 0.1


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        (8.0, r"budget 8: cannot be planned, one candidate costs 8\.2"),
        (400.0, "it buys 48 candidates and the pool holds 40"),
    ],
)
def test_a_budget_out_of_reach_is_refused(budget: float, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        list(planner(rewards(noise=1.0)).plans([20.0, budget]))


def test_planning_sees_nothing_but_the_prompts_it_is_given() -> None:
    base, other = rewards(noise=1.0), rewards(noise=3.0, seed=1)
    changed = base.copy()
    changed[1::2] = other[1::2]
    finetuned = np.where(np.arange(8) < 5, rewards(noise=0.5), np.nan)
    found = [
        plan_schedules(
            Experiment({"a": pair(values, finetuned)}, COSTS).of(slice(0, None, 2)), [20.0], 0
        )
        for values in (base, changed)
    ]
    assert found[0] == found[1]


def test_ttsnap_checks_only_where_it_is_finetuned() -> None:
    base = rewards(noise=9.0)
    finetuned = np.full_like(base, np.nan)
    finetuned[:, :, 2:4] = rewards(noise=0.1)[:, :, 2:4]
    experiment = Experiment({"a": pair(base, finetuned)}, COSTS)
    assert experiment.steps(TTSP) == list(range(8))
    assert experiment.steps(TTSNAP) == [2, 3]
    found = plan_schedules(experiment, [40.0], 0)
    assert {(one["strategy"], one["reward"]) for one in found["plans"]} == {
        (TTSP, "a"),
        (TTSNAP, "a"),
    }
    snap = next(one for one in found["plans"] if one["strategy"] == TTSNAP)
    assert {check["step"] for check in snap["checks"]} <= {2, 3}
    assert snap["expected"]["low"] < snap["expected"]["mean"] < snap["expected"]["high"]
    assert snap["expected_cost"] <= 40
    assert [one["strategy"] for one in found["robust"]] == [TTSP, TTSNAP]


def test_a_plan_for_several_rewards() -> None:
    values = {name: rewards(noise=0.7, seed=seed) for seed, name in enumerate("ab")}
    pairs: dict[str, RewardPair] = {name: pair(both, both) for name, both in values.items()}
    found = plan_schedules(Experiment(pairs, COSTS, joint=True), [40.0], 0)
    assert {one["reward"] for one in found["plans"]} == {"joint"}
    assert all(one["checks"] for one in found["plans"])


def test_a_constant_reward_does_not_spoil_a_plan_for_several() -> None:
    values = rewards(noise=0.7)
    flat = np.ones_like(values)
    found = plan_schedules(
        Experiment({"a": pair(values, values), "b": pair(flat, flat)}, COSTS, joint=True), [40.0], 0
    )
    assert all(np.isfinite(one["expected"]["mean"]) for one in found["plans"])


def test_a_plan_starts_what_a_search_would() -> None:
    """At budgets of exactly n runs, where one candidate too few is lost to rounding at once."""
    costs = CostModel(denoise=0.1, decode=0.0, reward=0.03, steps=8)
    values = rewards(noise=0.7)
    planner = Planner(
        Pool(values, values[:, :, -1], planning_subsets(*values.shape[:2], 0)), costs, [2, 4]
    )
    for runs in (3, 6, 7):
        budget = sum([costs.cost(1)] * runs)
        (plan,) = planner.plans([budget])
        alive = plan.schedule.counts(plan.n)
        assert plan.n == costs.largest_n(budget, plan.schedule)
        steps = tuple(check.step for check in plan.schedule.checks)
        assert planner._affordable(budget, Design(steps, tuple(alive[1:]))) == plan.n
        assert planner._affordable(budget, Design()) == runs
