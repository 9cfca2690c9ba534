"""The whole workflow with its trajectory stores in an object store."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.conftest import Workflow
from ttsnap.store.files import files_under, place

STORES = "s3://bucket/all runs"


@pytest.fixture(scope="module")
def remote(workflow: Workflow, bucket: str) -> Workflow:
    """A run, from prompts to report, whose own folder holds no images; of as few jobs as can be."""
    settings = {**workflow.settings, "stores": STORES, "run": "remote"}
    settings["model"] = {"path": "generator"}
    settings["rewards"] = {"clip": {"path": "clip"}}
    settings["narf"] = {**workflow.settings["narf"], "steps": [1]}
    settings["search"] = {
        **workflow.settings["search"],
        "methods": ["ttsnap"],
        "options": {},
        "judge_reward": None,
    }
    run = Workflow(workflow.folder, settings)
    done = run.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return run


def test_stores_lie_there_and_are_whole(
    ttsnap: Callable[..., int], remote: Workflow, tmp_path: Path
) -> None:
    run = remote.folder / "results/remote"
    assert (run / "summary.json").is_file()
    assert not list(run.rglob("*.npz"))
    assert not list((run / "trajectories").glob("*.zarr"))
    assert {name.split("/")[0] for name in files_under(place(f"{STORES}/remote"))} == {
        f"{split}.zarr" for split in ("test", "train", "val")
    }
    assert ttsnap("verify", run) == 0
    assert ttsnap("export", f"{STORES}/remote/train.zarr", tmp_path / "png") == 0
    assert len(list((tmp_path / "png").rglob("*.png"))) == 6 * 2 * 3


def test_what_is_damaged_there_is_made_anew_alone(
    ttsnap: Callable[..., int], remote: Workflow, capsys: pytest.CaptureFixture[str]
) -> None:
    run = remote.folder / "results/remote"
    shard = place(f"{STORES}/remote/test.zarr/images/c/1/0/0/0/0/0")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert ttsnap("verify", run) == 1
    assert "test.zarr: block 1: images/c/1/0/0/0/0/0: " in capsys.readouterr().out
    assert ttsnap("repair", run) == 0
    assert remote.planned() == {"trajectories": 1}
    assert remote.snakemake().returncode == 0
    assert shard.read_bytes() == whole
    assert ttsnap("verify", run) == 0
    assert remote.planned() == {}


@pytest.mark.parametrize(
    ("stores", "told"),
    [
        ("s3://no-such-bucket", "s3://no-such-bucket/elsewhere/.*: .*bucket"),
        ("gs://bucket", "gs://bucket/elsewhere/test.zarr: .*gcsfs"),
        ("file:///tmp", "file:///tmp/elsewhere/test.zarr: expected s3://"),
    ],
)
def test_an_object_store_that_is_not_there_is_one_line(
    stores: str, told: str, workflow: Workflow, bucket: str
) -> None:
    done = workflow.snakemake("--config", "run=elsewhere", f"stores={stores}")
    assert done.returncode != 0
    assert re.search(f"^{told}", done.stdout + done.stderr, flags=re.MULTILINE)
    assert not (workflow.folder / "results/elsewhere").exists()  # not a job was begun
    assert "Traceback" not in done.stdout + done.stderr
