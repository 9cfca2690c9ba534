from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pictures import has, read
from ttsnap.drawing.style import colour
from ttsnap.report import figures
from ttsnap.searching.methods import METHODS


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


@pytest.mark.parametrize("budgets", [[0.1], [0.05, 0.1, 0.2]])
@pytest.mark.parametrize("methods", [["best-of-n", "ttsnap"], list(METHODS)])
def test_live_with_any_methods(tmp_path: Path, budgets: list[float], methods: list[str]) -> None:
    found = results(methods, budgets)
    tints = {colour(name) for name in methods}
    assert len(tints) == len(methods)
    figures.live(found, tmp_path / "live.png", reward="clip")
    figures.oracle_accuracy(found, tmp_path / "oracle.png")
    figures.held_out(found, tmp_path / "held_out.png", reward="hps")
    for metric in ("reward", "diversity"):
        figures.against_compute(found, metric, tmp_path / f"compute_{metric}.png", axis=metric)
    for path in tmp_path.glob("*.png"):
        pixels = read(path)
        assert all(has(pixels, tint) for tint in tints - {colour("beam")})
        nothing = path.name == "compute_diversity.png"  # beam has none
        assert has(pixels, colour("beam")) is ("beam" in methods) or nothing


@pytest.mark.parametrize("methods", [["best-of-n"], ["best-of-n", "ttsnap"], list(METHODS)])
@pytest.mark.parametrize("column", ["spent", "seconds"])
def test_reward_for_what_was_spent(tmp_path: Path, column: str, methods: list[str]) -> None:
    found = results(methods, [0.05, 0.1]).assign(seconds=2.0)
    figures.reward_by(found, column, tmp_path / "a", title="reward (clip)", methods=methods[:2])
    pixels = read(tmp_path / "a.png")
    assert [has(pixels, colour(name)) for name in methods] == [
        name in methods[:2] for name in methods
    ]
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")
