"""The command line on a finished run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.workflow.conftest import PROMPTS, Workflow
from ttsnap.config import load_config
from ttsnap.run.status import SETTINGS
from ttsnap.run.workload import workload
from ttsnap.schedule import CostModel, planned_schedule, read_plan
from ttsnap.store.trajectories import open_store


@pytest.fixture(autouse=True)
def in_the_finished_run(finished: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder)


def found(out: Path) -> Path:
    """The folder of the only prompt."""
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


@pytest.mark.parametrize(
    ("method", "options"), [("ttsnap", ["--schedule", "1:0.5"]), ("beam", ["--narf"])]
)
def test_search_looks_with_the_checkpoints(
    ttsnap, tmp_path: Path, method: str, options: list[str]
) -> None:
    prompt = PROMPTS[2]
    common = ("--config", "tiny.yaml", "--method", method, "--out", str(tmp_path))
    assert ttsnap("search", prompt, *common, *options) == 0
    folder = found(tmp_path)
    with Image.open(folder / "best.png") as image:
        assert image.text["prompt"] == prompt
        assert image.text["method"] == method
    assert (folder / "contact.png").is_file()
    assert (folder / "rounds/round_1.json").is_file()
    events = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    assert events[-1]["spent"] <= events[0]["budget"]
    settings = json.loads((tmp_path / "config.json").read_text())
    assert "1" in settings["verifiers"]


def test_search_is_the_same_for_a_seed(ttsnap, tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        options = ("--config", "tiny.yaml", "--seed", seed, "--out", str(tmp_path / name))
        assert ttsnap("search", "a plain prompt", *options) == 0
    a, b, c = ((found(tmp_path / name) / "best.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_budget_too_small_names_the_smallest(
    ttsnap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--config", "tiny.yaml", "--budget", "1e-9", "--out", str(tmp_path))
    assert ttsnap("search", "a plain prompt", *options) == 1
    message = capsys.readouterr().err
    assert message.startswith("ttsnap: budget of 1e-09 TFLOPs: one candidate costs")
    assert message.count("\n") == 1


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
        schedules[name] = json.loads((out / "config.json").read_text())["options"]["schedule"]
    assert schedules["given"] == "2:0.5"
    planned = read_plan(plan)
    costs = CostModel(**planned["costs"], steps=planned["steps"])
    _, expected = planned_schedule(planned, "ttsnap", float(budget), reward="clip", costs=costs)
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


def test_status_of_a_finished_run_has_nothing_left(
    ttsnap, finished: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ttsnap("status", finished.run) == 0
    said = capsys.readouterr().out
    jobs = sum(finished.planned("run=fresh").values())
    assert f"{jobs} of {jobs} jobs done" in said
    assert "left" not in said.splitlines()[-1]
    for stage in workload(load_config(finished.run / SETTINGS)):
        rule, *about = stage.name.split()
        if rule == "trajectories":
            store = finished.run / f"trajectories/{about[0]}.zarr"
            shards = [*(store / "images/c").rglob("*"), *(store / "latents/c").rglob("*")]
            records = store.with_suffix(".parts").rglob("*.json")
            found = [path for path in (*shards, *records) if path.is_file()]
            assert len(found) == stage.stored
            assert open_store(store).array.nbytes == stage.bytes


def test_the_report_tells_what_each_stage_took(finished: Workflow) -> None:
    table = pd.read_csv(finished.run / "report/stages.csv").set_index("stage")
    assert (table.seconds > 0).all()
    assert (table.loc[["trajectories val", "rewards", "narf", "tensor"], "tflops"] > 0).all()
    assert table.loc["trajectories val", "memory_gb"] > 0.1
