from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pictures import has, read
from ttsnap.drawing.style import colour
from ttsnap.report import figures

STRATEGIES = {"best-of-n": 1.0, "ttsp": 0.99, "ttsnap": 1.01}


def simulated(rewards: list[str], prunes_by: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves and ω; the largest budget buys too many candidates for all but best-of-N."""
    curves, omega = [], []
    for reward in rewards:
        for name, height in STRATEGIES.items():
            for budget in (1.0, 2.0, 3.0):
                missing = budget == 3 and name != "best-of-n"
                mean = np.nan if missing else height + budget
                curves.append((name, reward, prunes_by, budget, mean, mean - 0.1, mean + 0.1))
            gain = 100 * height - 100
            omega.append((name, reward, prunes_by, gain, gain - 4, gain + 4))
    columns = ["strategy", "reward", "prunes_by"]
    gains = pd.DataFrame(omega, columns=[*columns, "omega", "omega_low", "omega_high"])
    for column in ("equivalent_n_ratio", "compute_for_same_reward"):
        for suffix in ("", "_low", "_high"):
            gains[column + suffix] = 1 + gains["omega" + suffix] / 100
    gains.loc[gains.strategy == "ttsp", "equivalent_n_ratio"] = np.nan
    return pd.DataFrame(curves, columns=[*columns, "budget", "mean", "low", "high"]), gains


@pytest.mark.parametrize(
    ("rewards", "prunes_by"),
    [(["clip"], "clip"), (["clip", "hps", "imr"], "each"), (["clip", "hps"], "joint")],
)
def test_reward_vs_budget_and_omega(tmp_path: Path, rewards: list[str], prunes_by: str) -> None:
    curves, omega = simulated(rewards, prunes_by)
    figures.reward_vs_budget(curves, omega, tmp_path / "curves.png", unit="seconds")
    figures.omega(omega, tmp_path / "omega.png")
    for name in ("curves.png", "omega.png"):
        pixels = read(tmp_path / name)
        assert all(has(pixels, colour(strategy)) for strategy in STRATEGIES)


def plan(budgets: list[float], strategies: list[str], robust: bool) -> dict[str, object]:
    checks = [{"step": 2, "keep": 0.4}, {"step": 5, "keep": 0.5}]
    kinds = [("best-of-n", [])] + [(strategy, checks) for strategy in strategies]
    plans = [
        {"strategy": name, "reward": "clip", "budget": budget, "n": 10 * i + 5, "checks": chosen}
        for name, chosen in kinds
        for i, budget in enumerate(budgets)
    ]
    everywhere = [{"strategy": name, "reward": "clip", "checks": checks} for name in strategies]
    return {"steps": 12, "unit": "TFLOPs", "plans": plans, "robust": everywhere if robust else []}


@pytest.mark.parametrize("count", [1, 4, 40])
@pytest.mark.parametrize(
    ("strategies", "robust"), [(["ttsp", "ttsnap"], True), (["ttsnap"], False)]
)
def test_schedules_over_budgets(
    tmp_path: Path, count: int, strategies: list[str], robust: bool
) -> None:
    budgets = [0.008 * (i + 1) for i in range(count)]
    chosen = plan(budgets, strategies, robust)
    figures.schedules_over_budgets(chosen, tmp_path / "a.png", reward="clip")
    pixels = read(tmp_path / "a.png")
    for strategy in ("ttsp", "ttsnap"):
        assert has(pixels, colour(strategy)) is (strategy in strategies)
    assert len(pixels) < 1600  # 8 inches, however many budgets
