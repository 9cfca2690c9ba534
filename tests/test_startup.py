"""What is to answer at once waits for no slow library."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.startup import COMMANDS, SLOW, imported


@pytest.mark.parametrize(
    "name", ["ttsnap --help", "ttsnap methods", "ttsnap models", "snakemake -n"]
)
def test_nothing_slow_is_imported(name: str) -> None:
    assert imported(COMMANDS[name]) == []


def test_what_scores_and_learns_imports_no_pipelines() -> None:
    modules = "import ttsnap.rewards.clip, ttsnap.rewards.tensor, ttsnap.narf.curriculum"
    assert imported(["python", "-c", modules]) == ["torch"]


def test_an_import_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in SLOW:
        (tmp_path / f"{library}.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert imported(["python", "-c", "import transformers, torch"]) == ["torch", "transformers"]
