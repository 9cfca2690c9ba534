"""The command line on a finished run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.workflow.conftest import PROMPTS, Workflow
from ttsnap.schedule import planned_schedule, read_plan
from ttsnap.simulation.source import read_costs
from ttsnap.store import open_store


@pytest.fixture(autouse=True)
def in_the_finished_run(finished: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder)


@pytest.mark.parametrize("method", ["ttsnap", "ttsp", "best-of-n"])
def test_search_writes_image_sheet_and_trace(ttsnap, tmp_path: Path, method: str) -> None:
    prompt = PROMPTS[2]
    out = tmp_path / "found"
    assert (
        ttsnap("search", prompt, "--config", "tiny.yaml", "--method", method, "--out", str(out))
        == 0
    )
    with Image.open(out / "best.png") as image:
        assert image.text["prompt"] == prompt
        assert image.text["method"] == method
    assert (out / "contact.png").is_file()
    trace = json.loads((out / "trace.json").read_text(encoding="utf-8"))
    assert trace["spent"] <= trace["budget"]
    assert trace["spent"] == pytest.approx(trace["planned"])


def test_search_is_the_same_for_a_seed(ttsnap, tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        options = ("--config", "tiny.yaml", "--seed", seed, "--out", str(tmp_path / name))
        assert ttsnap("search", "a plain prompt", *options) == 0
    a, b, c = ((tmp_path / name / "best.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_budget_too_small_names_the_smallest(ttsnap, capsys: pytest.CaptureFixture[str]) -> None:
    assert ttsnap("search", "a plain prompt", "--config", "tiny.yaml", "--budget", "1e-9") == 1
    message = capsys.readouterr().err
    assert message.startswith("ttsnap: budget of 1e-09 TFLOPs: one candidate costs")
    assert message.count("\n") == 1


def test_a_budget_of_nothing_is_refused(ttsnap, capsys: pytest.CaptureFixture[str]) -> None:
    assert ttsnap("search", "a plain prompt", "--config", "tiny.yaml", "--budget", "0") == 1
    assert "--budget 0: expected TFLOPs above 0" in capsys.readouterr().err


def test_a_check_without_a_checkpoint_says_what_to_do(
    ttsnap, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--config", "tiny.yaml", "--schedule", "0:0.5")
    assert ttsnap("search", "a plain prompt", *options) == 1
    assert "no NARF checkpoint for step 0" in capsys.readouterr().err


def test_search_takes_a_plan_or_a_schedule(ttsnap, finished: Workflow, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    tensor = finished.run / "tensors/clip/val.base.zarr"
    budget = str(finished.settings["search"]["budgets"][0])
    assert ttsnap("plan", str(tensor), "--budgets", budget, "--out", str(plan)) == 0
    schedules = {}
    for name, options in {"plan": ["--plan", str(plan)], "given": ["--schedule", "2:0.5"]}.items():
        out = tmp_path / name
        common = ("--config", "tiny.yaml", "--budget", budget, "--out", str(out))
        assert ttsnap("search", "a plain prompt", *common, *options) == 0
        schedules[name] = json.loads((out / "trace.json").read_text())["schedule"]
    assert schedules["given"] == "2:0.5"
    costs = read_costs(finished.run / "model.json", finished.run / "rewards/clip/cost.json")
    found = read_plan(plan)
    expected = planned_schedule(found, "ttsnap", float(budget), reward="clip", costs=costs)
    assert schedules["plan"] == str(expected)


def test_verify_names_a_damaged_shard(
    ttsnap, finished: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished.run
    assert ttsnap("verify", str(run)) == 0
    shard = next(
        file for file in (run / "trajectories/val.zarr/images/c").rglob("*") if file.is_file()
    )
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    capsys.readouterr()
    status = ttsnap("verify", str(run))
    shard.write_bytes(whole)
    assert status == 1
    assert "val.zarr" in capsys.readouterr().out


def test_a_store_survives_export_and_import(ttsnap, finished: Workflow, tmp_path: Path) -> None:
    store = finished.run / "trajectories/train.zarr"
    assert ttsnap("export", str(store), str(tmp_path / "png")) == 0
    prompts = str(tmp_path / "png/prompts.json")
    again = tmp_path / "again.zarr"
    assert ttsnap("import", str(tmp_path / "png"), "--prompts", prompts, "--out", str(again)) == 0
    before, after = open_store(store), open_store(again)
    assert before.steps == after.steps
    for step in before.steps:
        assert (before.images(step=step) == after.images(step=step)).all()


def test_summary_prints_the_headline(
    ttsnap, finished: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ttsnap("summary", str(finished.run)) == 0
    assert "Kendall" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, ttsnap.cli; print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
