"""What the README shows must run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(
        r"```python\n(.*?from ttsnap import search.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert len([line for line in code.splitlines() if line.strip()]) < 10
    (tmp_path / "ttsnap").symlink_to(ROOT / "ttsnap")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    found = names["found"]
    with Image.open(tmp_path / "found/best.png") as best:
        assert float(best.text["score"]) == found.score
    assert found.spent <= 400
    assert found._repr_png_().startswith(b"\x89PNG")
