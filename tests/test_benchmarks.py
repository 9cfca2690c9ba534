"""The benchmark of a GPU, on tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_benchmark_of_a_gpu_runs(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--repeats", "1"]
    subprocess.run([*command, "--out", tmp_path / "table.md"], check=True, cwd=ROOT)
    title, _, heading, _, *rows = (tmp_path / "table.md").read_text().splitlines()
    assert "PyTorch" in title
    assert heading == "| | sdxl | flux | z-image |"
    cells = {row.split("|")[1].strip(): row.split("|")[2:5] for row in rows}
    assert cells.pop("pixels, steps, batch") == [" 64 x 64, 6, 2 "] * 3
    assert cells.pop("precision") == [" float32 "] * 3
    assert all(float(cell) > 0 for numbers in cells.values() for cell in numbers)
    for part in ("pipeline's call", "every step", "scores", "NARF step", "TTSnap of N"):
        assert any(part in name for name in cells)
