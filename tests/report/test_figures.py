from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ttsnap.report import figures
from ttsnap.schedule import CostModel, Schedule
from ttsnap.searching.methods import METHODS

SCHEDULE = Schedule.parse("2:0.4,4:0.5")
COSTS = CostModel(denoise=0.01, decode=0.001, reward=0.0005, steps=12)


def evaluation(trained: range) -> pd.DataFrame:
    rows = []
    for step in range(12):
        base, gain = step / 11, 0.1 if step in trained else np.nan
        values = {"base": base, "finetuned": base + gain, "difference": gain}
        for kind, value in values.items():
            if np.isfinite(value):
                rows.append((step, kind, "kendall_tau", value, value - 0.02, value + 0.02))
                rows.append((step, kind, "mse", 100.0, 99.0, 101.0))
    return pd.DataFrame(rows, columns=["step", "kind", "metric", "mean", "low", "high"])


def results(methods: list[str], budgets: list[float]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "method": method,
                "budget": budget,
                "prompt_id": f"p{prompt}",
                "reward": 20 + rng.normal(),
                "oracle": float(rng.random() < 0.6),
                "held_out": rng.normal(),
                "diversity": np.nan if method == "beam" else rng.random(),
                "spent": 0.97 * budget,
                "unit": "TFLOPs",
                "n": 8,
            }
            for method in methods
            for budget in budgets
            for prompt in range(20)
        ]
    )


def history(step: int) -> pd.DataFrame:
    table = pd.DataFrame({"iteration": np.arange(41), "loss": 1 / (1 + np.arange(41)) + step / 9})
    table.loc[0, "loss"] = np.nan
    table["val_kendall_tau"] = np.where(table.iteration % 20 == 0, 0.3 + step / 20, np.nan)
    table["kept"] = table.iteration == 20
    return table


def read(path: Path) -> np.ndarray:
    """The pixels, after a check that nothing is cut off at the edges."""
    pixels = np.array(Image.open(path).convert("RGB"))
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert np.all(edge == 255), "something runs over the edge"
    return pixels


def has(pixels: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool(np.any(np.all(pixels == wanted, axis=2)))


@pytest.mark.parametrize("trained", [range(12), range(1, 7)])
def test_rank_consistency(tmp_path: Path, trained: range) -> None:
    figures.rank_consistency(evaluation(trained), tmp_path / "a.png", schedule=SCHEDULE)
    pixels = read(tmp_path / "a.png")
    assert has(pixels, figures.colour("base"))
    assert has(pixels, figures.colour("finetuned"))


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
        assert all(has(pixels, figures.colour(strategy)) for strategy in STRATEGIES)


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
        assert has(pixels, figures.colour(strategy)) is (strategy in strategies)
    assert len(pixels) < 1600  # 8 inches, however many budgets


@pytest.mark.parametrize("budgets", [[0.1], [0.05, 0.1, 0.2]])
@pytest.mark.parametrize("methods", [["best-of-n", "ttsnap"], list(METHODS)])
def test_live_with_any_methods(tmp_path: Path, budgets: list[float], methods: list[str]) -> None:
    found = results(methods, budgets)
    tints = {figures.colour(name) for name in methods}
    assert len(tints) == len(methods)
    figures.live(found, tmp_path / "live.png", reward="clip")
    figures.oracle_accuracy(found, tmp_path / "oracle.png")
    figures.held_out(found, tmp_path / "held_out.png", reward="hps")
    for metric in ("reward", "diversity"):
        figures.against_compute(found, metric, tmp_path / f"compute_{metric}.png", axis=metric)
    for path in tmp_path.glob("*.png"):
        pixels = read(path)
        assert all(has(pixels, tint) for tint in tints - {figures.colour("beam")})
        nothing = path.name == "compute_diversity.png"  # beam has none
        assert has(pixels, figures.colour("beam")) is ("beam" in methods) or nothing


def test_costs(tmp_path: Path) -> None:
    figures.costs(COSTS, SCHEDULE, 1.0, tmp_path / "a.png")
    assert has(read(tmp_path / "a.png"), figures.colour("ttsnap"))


@pytest.mark.parametrize("steps", [1, 6, 15])
def test_training(tmp_path: Path, steps: int) -> None:
    figures.training({step: history(step) for step in range(steps)}, tmp_path / "a.png")
    assert has(read(tmp_path / "a.png"), figures.colour("finetuned"))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_data_give_equal_files(tmp_path: Path, kind: str) -> None:
    first, second = tmp_path / f"1.{kind}", tmp_path / f"2.{kind}"
    for path in (first, second):
        figures.rank_consistency(evaluation(range(12)), path, schedule=SCHEDULE)
    assert first.read_bytes() == second.read_bytes()


def test_stages(tmp_path: Path) -> None:
    rows = [("trajectories train", 16, 1673.4, 0.62, 86.9), ("plan", 1, 1.9, 0.17, 0.0)]
    table = pd.DataFrame(rows, columns=["stage", "jobs", "seconds", "memory_gb", "tflops"])
    for tflops in (table.tflops, np.nan):
        figures.stages(table.assign(tflops=tflops), tmp_path / "a.png")
        assert has(read(tmp_path / "a.png"), figures.colour("base"))
