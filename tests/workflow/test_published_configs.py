"""The configurations of well-known models: complete, pinned, and understood by the workflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, Workflow
from ttsnap.config import load_config
from ttsnap.fetch import sources
from ttsnap.prompts import load_splits

NAMES = ["sd15", "sdxl", "flux", "sd35", "pixart-sigma"]
each_config = pytest.mark.parametrize("name", NAMES)


def file(name: str) -> Path:
    return ROOT / "config" / f"{name}.yaml"


@each_config
def test_it_is_complete_and_pinned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(file(name))
    assert config.run == name
    assert [len(prompts) for prompts in load_splits(config.splits).values()] == [40, 10, 10]
    needed = {source.place for source in sources(config)}
    assert needed == {
        "model",
        "rewards.imr",
        "rewards.imr.options.tokenizer",
        "rewards.pic",
        "rewards.hps",
        "rewards.hps.options.clip",
    }
    assert config.narf.of("imr").learning_rate == 3e-6
    assert {config.narf.of(reward).learning_rate for reward in ("pic", "hps")} == {5e-7}
    assert config.narf.steps == list(range(15))


@each_config
def test_the_workflow_plans_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    workflow = Workflow(tmp_path, {})
    done = workflow.snakemake("--dry-run", "--quiet", config=file(name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_not_fetched_is_told_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    workflow = Workflow(tmp_path, {})
    done = workflow.snakemake(config=file("flux"), HF_HOME=str(tmp_path / "hub"))
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "model: black-forest-labs/FLUX.1-dev@3de623fc is not on this machine" in said
    assert "run `ttsnap fetch`" in said
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()
