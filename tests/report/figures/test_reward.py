from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.pictures import has, read
from ttsnap.drawing.style import colour
from ttsnap.report import figures
from ttsnap.schedule import Schedule

SCHEDULE = Schedule.parse("2:0.4,4:0.5")


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


def history(step: int) -> pd.DataFrame:
    table = pd.DataFrame({"iteration": np.arange(41), "loss": 1 / (1 + np.arange(41)) + step / 9})
    table.loc[0, "loss"] = np.nan
    table["val_kendall_tau"] = np.where(table.iteration % 20 == 0, 0.3 + step / 20, np.nan)
    table["kept"] = table.iteration == 20
    return table


@pytest.mark.parametrize("trained", [range(12), range(1, 7)])
def test_rank_consistency(tmp_path: Path, trained: range) -> None:
    both = {"": evaluation(trained), "@preview": evaluation(range(1, 4))}
    figures.rank_consistency(both, tmp_path / "a.png", schedule=SCHEDULE)
    pixels = read(tmp_path / "a.png")
    for kind in ("base", "finetuned", "base@preview", "finetuned@preview"):
        assert has(pixels, colour(kind))


@pytest.mark.parametrize("steps", [1, 6, 15])
def test_training(tmp_path: Path, steps: int) -> None:
    figures.training({step: history(step) for step in range(steps)}, tmp_path / "a.png")
    assert has(read(tmp_path / "a.png"), colour("finetuned"))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_data_give_equal_files(tmp_path: Path, kind: str) -> None:
    first, second = tmp_path / f"1.{kind}", tmp_path / f"2.{kind}"
    for path in (first, second):
        figures.rank_consistency({"": evaluation(range(12))}, path, schedule=SCHEDULE)
    assert first.read_bytes() == second.read_bytes()
