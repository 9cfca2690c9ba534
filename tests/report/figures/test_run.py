from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.pictures import has, read
from ttsnap.drawing.style import colour
from ttsnap.report import figures
from ttsnap.schedule import CostModel, Schedule

SCHEDULE = Schedule.parse("2:0.4,4:0.5")
COSTS = CostModel(denoise=0.01, decode=0.001, reward=0.0005, steps=12)


def test_costs(tmp_path: Path) -> None:
    figures.costs(COSTS, SCHEDULE, 1.0, tmp_path / "a.png")
    assert has(read(tmp_path / "a.png"), colour("ttsnap"))


def test_stages(tmp_path: Path) -> None:
    rows = [("trajectories train", 16, 1673.4, 0.62, 86.9), ("plan", 1, 1.9, 0.17, 0.0)]
    table = pd.DataFrame(rows, columns=["stage", "jobs", "seconds", "memory_gb", "tflops"])
    for tflops in (table.tflops, np.nan):
        figures.stages(table.assign(tflops=tflops), tmp_path / "a.png")
        assert has(read(tmp_path / "a.png"), colour("base"))
