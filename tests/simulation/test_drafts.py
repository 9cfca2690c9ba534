"""Drafts: cheap whole runs that are looked at before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ttsnap.errors import UserError
from ttsnap.schedule import DRAFT, CostModel, Schedule, read_plan
from ttsnap.simulation import plan
from ttsnap.simulation.experiment import Experiment
from ttsnap.simulation.montecarlo import replay
from ttsnap.simulation.source import pair_of
from ttsnap.simulation.strategies import given_plan, plan_schedules, simulate_parts

STEPS, PROMPTS, IMAGES = 6, 20, 16
COSTS = CostModel(denoise=1.0, decode=0.1, reward=0.1, steps=STEPS, draft=1.5)
FULL = COSTS.cost(1)
BUDGETS = [FULL * n for n in (3, 4, 6)]


def rewards(error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rewards (P, I, S) that know nothing of the final one before it, and those of drafts."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(PROMPTS, IMAGES, STEPS)).astype(np.float32)
    drafts = base[:, :, -1] + error * rng.normal(size=(PROMPTS, IMAGES))
    return base, drafts.astype(np.float32)


def experiment(error: float, seed: int = 0) -> Experiment:
    base, drafts = rewards(error, seed)
    return Experiment({"r": pair_of("r", base)}, COSTS, drafts={"r": drafts})


def test_a_draft_is_paid_for_before_the_first_step() -> None:
    assert COSTS.prices([DRAFT, 2]) == pytest.approx([1.5 + 0.2, 3 + 0.2, 3 + 0.2])
    assert COSTS.cost(8, Schedule.parse("draft:0.25")) == pytest.approx(8 * 1.7 + 2 * FULL)
    published = CostModel(1.0, 0.1, 0.1, STEPS, accounting="ttsnap", draft=1.5)
    assert published.prices([DRAFT])[0] == pytest.approx(1.7)
    with pytest.raises(UserError, match="checks drafts, which take"):
        CostModel(1.0, 0.1, 0.1, STEPS).cost(2, Schedule.parse("draft:0.5"))


@pytest.mark.parametrize("text", ["draft:0.25", "draft:0.25,2:0.5"])
def test_a_schedule_is_written_as_it_is_read(text: str) -> None:
    schedule = Schedule.parse(text)
    assert schedule.checks[0].step == DRAFT
    assert str(schedule) == text
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_drafts_come_first() -> None:
    with pytest.raises(UserError, match="check steps must increase"):
        Schedule.parse("2:0.5,draft:0.25")


@pytest.mark.parametrize("text", ["draft:0.25", "draft:0.5,2:0.5"])
def test_all_of_a_pool_are_simulated_as_they_are_replayed(text: str) -> None:
    some, schedule = experiment(error=1.0), Schedule.parse(text)
    budgets = [COSTS.cost(n, schedule) for n in (IMAGES // 2, IMAGES)]
    found = simulate_parts(some, given_plan(some, schedule, budgets, 0), budgets, 64, 0)
    base, drafts = rewards(error=1.0)
    scores = np.concatenate([base, drafts[:, :, None]], axis=2)
    winners = [replay(scores[p], base[p, :, -1], schedule).winner for p in range(PROMPTS)]
    expected = base[np.arange(PROMPTS), winners, -1]
    kinds = {"draft+ttsp", "draft"} if len(schedule.checks) == 1 else {"draft+ttsp"}
    for kind in kinds:
        np.testing.assert_allclose(found.per_prompt[kind, "r"][:, -1], expected, atol=1e-6)
    assert ("ttsp", "r") not in found.per_prompt  # which looks at no drafts


def test_the_plan_drafts_where_that_pays_and_only_there() -> None:
    """Early estimates are noise here. Drafts tell nearly all, or nothing either."""
    telling, silent = (plan_schedules(experiment(error), BUDGETS, 0) for error in (0.1, 100.0))
    for one in telling["plans"]:
        drafted = any(check["step"] == DRAFT for check in one["checks"])
        assert drafted == (one["strategy"] != "ttsp")
        if one["strategy"] == "best":
            assert one["run_as"] in ("draft", "draft+ttsp")
    assert not any(one["checks"] for one in silent["plans"] if one["strategy"] == "draft")
    judged = simulate_parts(experiment(0.1, seed=1), telling, BUDGETS, 256, 0).omega
    omega = judged.set_index("strategy").omega
    assert omega["draft"] > 20
    assert omega["best"] > 20 > abs(omega["ttsp"])


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    base, drafts = rewards(error=0.1)
    path = tmp_path / "tensors.npz"
    np.savez(path, r_base=base, r_draft=drafts)
    return path


def test_on_the_command_line(
    ttsnap: Callable[..., int], tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ("--denoise", "1", "--verify", "0.2", "--budgets", ",".join(map(str, BUDGETS)))
    out = tmp_path / "found"
    assert ttsnap("simulate", tensors, *prices, "--draft", "1.5", "--out", out) == 0
    omega = pd.read_csv(out / "omega.csv").set_index("strategy").omega
    assert set(omega.index) == {"best-of-n", "ttsp", "draft", "draft+ttsp", "best"}
    planned = read_plan(out / "plan.json")
    assert planned["costs"]["draft"] == 1.5
    again = plan(tensors, BUDGETS, costs=CostModel(1.0, 0.0, 0.2, STEPS, draft=1.5))
    assert {one["strategy"] for one in again["plans"]} == set(omega.index) - {"best-of-n"}
    capsys.readouterr()
    for path, price, told in (
        (tensors, "0", "--draft 0: expected a finite number above 0"),
        (tmp_path, "1.5", "--draft: only with an .npz"),
    ):
        assert ttsnap("simulate", path, *prices, "--draft", price, "--out", out) == 1
        assert told in capsys.readouterr().err
    base, drafts = rewards(error=0.1)
    for lacking, told in (
        ({}, "no array r_draft (prompts, images)"),
        ({"r_draft": drafts[:, :3]}, "r_draft: expected finite rewards of shape (20, 16)"),
    ):
        np.savez(tensors, r_base=base, **lacking)
        assert ttsnap("simulate", tensors, *prices, "--draft", "1.5", "--out", out) == 1
        assert told in capsys.readouterr().err
