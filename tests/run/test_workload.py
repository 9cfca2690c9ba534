"""What a run is said to take, before it and during it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ttsnap.config import Config, load_config
from ttsnap.run.status import SETTINGS, rows, stage_statuses, sum_up
from ttsnap.run.workload import Prices, Stage, workload

ROOT = Path(__file__).parents[2]

CONFIG = {
    "run": "tiny",
    "model": {"preview": None},
    "sampling": {"steps": 10, "height": 64, "width": 32},
    "splits": {
        "train": {"stop": 10, "images": 2, "steps": [0, 1], "prompts_per_job": 4},
        "val": {"start": 10, "stop": 14, "images": 3, "prompts_per_job": 2},
        "test": {"start": 14, "stop": 15, "images": 5, "prompts_per_job": 9},
    },
    "rewards": {"a": {"path": "a"}, "b": {"path": "b"}},
    "narf": {"steps": [0, 1], "epochs": 3},
    "search": {"reward": "a", "budgets": [2.0, 5.0], "prompts_per_job": 1},
}
PRICES = Prices(denoise=1.0, decode=0.1, scores={"a": 0.01, "b": 0.02})


def config() -> Config:
    return load_config(CONFIG)


def stages() -> dict[str, Stage]:
    return {stage.name: stage for stage in workload(config())}


def test_work_is_counted_from_the_configuration() -> None:
    found = stages()
    train = found["trajectories train"]
    assert [job.output[-15:] for job in train.jobs] == [f"block_000{i}.json" for i in range(3)]
    # 20 trajectories of 10 steps, of which two and the last are decoded and stored.
    assert train.tflops(PRICES) == pytest.approx(20 * 10 + 0.1 * 20 * 3)
    assert train.bytes == 20 * 3 * 64 * 32 * 3
    # Three epochs forward and backward, and four looks at the 12 images of val.
    assert found["narf b"].tflops(PRICES) == pytest.approx(2 * (3 * 3 * 20 + 4 * 12) * 0.02)
    assert found["tensor a val.base"].tflops(PRICES) == pytest.approx(12 * 10 * 0.01)
    assert found["tensor a val.finetuned"].tflops(PRICES) == pytest.approx(12 * 2 * 0.01)
    assert found["search ttsnap"].tflops(PRICES) == 7.0
    assert found["tensor b test.base"].row == "tensor"


@pytest.mark.parametrize(("images", "parts"), [(25_000, 0), (25_001, 2)])
def test_a_tensor_of_more_than_a_million_images_takes_several_jobs(images: int, parts: int) -> None:
    """Of val with its two blocks of two prompts and ten steps."""
    splits = {**CONFIG["splits"], "val": {**CONFIG["splits"]["val"], "images": images}}
    found = {stage.name: stage for stage in workload(load_config({**CONFIG, "splits": splits}))}
    folder = "tensors/a/val.finetuned"
    blocks = [f"{folder}/block_{block:04d}.npy" for block in range(parts)]
    outputs = [job.output for job in found["tensor a val.finetuned"].jobs]
    assert outputs == [*blocks, f"{folder}.json"]


def test_previews_have_students_and_tensors_of_their_own() -> None:
    model = {"preview": {"kind": "linear"}}
    found = {stage.name: stage for stage in workload(load_config({**CONFIG, "model": model}))}
    added = set(found).difference(stages())
    assert {"preview", "narf a@preview", "tensor b@preview test.base"} < added
    assert found["narf a@preview"].tflops(PRICES) == found["narf a"].tflops(PRICES)
    assert found["trajectories train"].stored == stages()["trajectories train"].stored + 3


def finish(folder: Path, stage: Stage, jobs: int, seconds: float) -> None:
    for job in stage.jobs[:jobs]:
        for path, text in (
            (job.output, "{}"),
            (job.benchmark, json.dumps({"s": seconds, "max_rss": 512.0})),
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)


def test_what_is_left_follows_from_what_was_measured(tmp_path: Path) -> None:
    found = {one.stage.name: one for one in stage_statuses(config(), tmp_path)}
    assert all((one.done, one.left) == (0, None) for one in found.values())
    assert sum_up([*found.values()]) == (
        "0 of 40 jobs done in 0:00; nothing to tell yet how long the others take"
    )

    finish(tmp_path, stages()["model"], 1, 1.0)
    (tmp_path / "model.json").write_text('{"denoise": 1.0, "decode": 0.1}')
    for reward in "ab":
        finish(tmp_path, stages()[f"reward_cost {reward}"], 1, 1.0)
        score = json.dumps({"score": PRICES.scores[reward]})
        (tmp_path / f"rewards/{reward}/cost.json").write_text(score)
    finish(tmp_path, stages()["trajectories train"], 2, 60.0)
    statuses = stage_statuses(config(), tmp_path)
    found = {one.stage.name: one for one in statuses}
    train = found["trajectories train"]
    assert (train.done, train.seconds, train.memory) == (2, 120.0, 512 * 2**20)
    assert train.left == 60.0
    assert train.rate == pytest.approx(20 * 2 / 3 / 120)
    # Two thirds of 206 TFLOPs took two minutes; 12 trajectories of val have 10 steps stored.
    assert found["trajectories val"].left == pytest.approx(12 * 11 * 120 / (206 * 2 / 3))
    assert found["evaluate a"].left is None
    # All of them ended just now, so that they ran side by side.
    assert sum_up(statuses).startswith(
        "5 of 40 jobs done in 1:00 by the clock, 2:03 of jobs, more than "
    )
    table = {row["stage"]: row for row in rows(statuses)}
    assert table["trajectories train"]["tflops"] == pytest.approx(206 * 2 / 3)
    assert table["reward_cost"]["jobs"] == 2


def test_status_takes_a_run_or_its_configuration(
    tmp_path: Path,
    ttsnap: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(json.dumps(CONFIG))
    run = tmp_path / "results/tiny"
    finish(run, stages()["model"], 1, 1.0)
    assert ttsnap("status", "results/tiny") == 1
    assert "no config.json of a run here" in capsys.readouterr().err
    assert ttsnap("status", "tiny.yaml") == 0
    by_config = capsys.readouterr().out
    (run / SETTINGS).write_text(config().model_dump_json())
    assert ttsnap("status", "results/tiny") == 0
    assert capsys.readouterr().out == by_config
    assert "1 of 40 jobs done" in by_config


def test_estimate_prints_what_a_run_takes(
    tmp_path: Path, ttsnap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    prices = {"denoise": 1.0, "decode": 0.1, "rewards": PRICES.scores}
    (tmp_path / "tiny.yaml").write_text(json.dumps({**CONFIG, "costs": prices}))
    assert ttsnap("estimate", tmp_path / "tiny.yaml", "--speed", "0.01") == 0
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["trajectories train"][2:] == ["3", "206", "5.7", "368.6", "kB", "15"]
    assert lines["all"][1] == "40"
    assert ttsnap("estimate", tmp_path / "tiny.yaml", "--model", "sd9") == 1
    assert "expected one of sd15, sdxl, flux" in capsys.readouterr().err


def test_status_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from ttsnap import cli; sys.argv = ['ttsnap', 'status']\n"
        "try: cli.main()\n"
        "except SystemExit: print({'torch', 'pandas', 'zarr', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_published_rewards_are_counted_without_their_weights(
    ttsnap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ("--model", "sdxl", "--gpu-memory", "24GB")
    assert ttsnap("estimate", ROOT / "config/sdxl.yaml", *needed) == 0
    printed = capsys.readouterr().out
    assert "GPU hours" in printed
    assert "do not fit into 24 GB; with one of these they do:\n  runtime.vae_slicing:" in printed
    assert ttsnap("estimate", "--gpu-memory", "much") == 1
    assert "--gpu-memory much: expected such as 24GB" in capsys.readouterr().err


def test_drafts_are_counted_where_there_are_any() -> None:
    found = {one.name: one for one in workload(load_config(CONFIG | {"draft": {"steps": 4}}))}
    assert {*found} - {*stages()} == {f"drafts {r} {s}" for r in "ab" for s in ("val", "test")}
    val = found["drafts a val"]
    assert (len(val.jobs), val.count, val.evaluations, val.scores) == (2, 4 * 3, 4 * 3 * 4, 12)
