"""The numbers of docs/reproduction.md, on the rewards that were released for Flux."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from ttsnap.schedule import Accounting, CostModel, Schedule
from ttsnap.simulation.experiment import TTSNAP, TTSP, Experiment
from ttsnap.simulation.source import RewardPair, load_source
from ttsnap.simulation.strategies import (
    given_plan,
    plan_schedules,
    schedules_of,
    simulate_part,
)

pytestmark = [
    pytest.mark.skipif("TTSNAP_SHARED" not in os.environ, reason="TTSNAP_SHARED is not set"),
    pytest.mark.slow,
]
PUBLISHED = Schedule.parse("2:0.4,6:0.4,11:0.5")
EVEN, ODD = slice(0, None, 2), slice(1, None, 2)


@cache
def rewards() -> dict[str, RewardPair]:
    folder = Path(os.environ["TTSNAP_SHARED"])
    return load_source(folder / "data/flux_reward_tensors.npz", ["imr", "pic", "hps"])


def costs(accounting: Accounting) -> CostModel:
    return CostModel(9.9, 0.0, 1.2, 20, accounting)


def omegas(
    experiment: Experiment, schedule: Schedule, budgets: list[float], draws: int
) -> pd.DataFrame:
    schedules = schedules_of(given_plan(experiment, schedule, budgets, 0), experiment.prunes_by)
    found = simulate_part(experiment, schedules, budgets, draws, 0).omega
    return found.set_index(["strategy", "reward"]).omega


@pytest.mark.parametrize(
    ("reward", "ttsnap", "ttsp"), [("imr", 31.0, 9.3), ("pic", 37.1, -1.0), ("hps", 27.7, 0.7)]
)
def test_published_numbers(reward: str, ttsnap: float, ttsp: float) -> None:
    experiment = Experiment({reward: rewards()[reward]}, costs("ttsnap"))
    found = omegas(experiment, PUBLISHED, [float(b) for b in range(400, 4001, 200)], 512)
    assert found[TTSNAP, reward] == pytest.approx(ttsnap, abs=1.5)
    assert found[TTSP, reward] == pytest.approx(ttsp, abs=1.5)


def test_published_numbers_of_several_rewards() -> None:
    experiment = Experiment(rewards(), costs("ttsnap"), joint=True)
    budgets = [float(b) for b in range(200, 4001, 200)]
    found = omegas(experiment, Schedule.parse("4:0.4,6:0.5,11:0.6"), budgets, 64)
    for reward, omega in (("imr", 12.7), ("pic", 23.0), ("hps", 25.9)):
        assert found[TTSNAP, reward] == pytest.approx(omega, abs=2)


@pytest.mark.parametrize(
    ("reward", "above", "ttsp"), [("imr", 1.0, 14.0), ("pic", 1.5, 11.0), ("hps", 10.0, 10.0)]
)
def test_planned_schedules_are_better_on_prompts_they_have_not_seen(
    reward: str, above: float, ttsp: float
) -> None:
    """At every third budget only, for the sake of time."""
    budgets = [float(b) for b in range(400, 4001, 600)]
    experiment = Experiment({reward: rewards()[reward]}, costs("corrected"))
    planned = schedules_of(plan_schedules(experiment.of(EVEN), budgets, 0), reward)
    found = (
        simulate_part(experiment.of(ODD), planned, budgets, 512, 0)
        .omega.set_index("strategy")
        .omega
    )
    published = omegas(experiment.of(ODD), PUBLISHED, budgets, 512)
    assert found[TTSNAP] >= published[TTSNAP, reward] + above
    assert found[TTSP] >= ttsp
