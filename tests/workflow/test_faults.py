"""Faults injected into whole runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.workflow.conftest import Workflow, job_counts
from ttsnap.run.status import SETTINGS
from ttsnap.store.trajectories import open_store
from ttsnap.store.verify import verify


def test_a_repaired_run_makes_anew_what_was_damaged_and_nothing_else(
    ttsnap: Callable[..., int], finished: Workflow, inject: Callable[[str], None]
) -> None:
    trajectories = finished.run / "trajectories"
    store = open_store(trajectories / "test.zarr")
    shard = trajectories / "test.zarr" / store.shards(1)[0]
    whole, before = shard.read_bytes(), files(finished.run)
    shard.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    (trajectories / "val/init.json").write_text("{")
    assert ttsnap("verify", finished.run) == 1
    assert ttsnap("repair", finished.run) == 0
    made = {"trajectories": 1, "trajectory_store": 1}
    assert finished.planned() == made
    done = finished.snakemake()
    assert done.returncode == 0, done.stderr
    assert job_counts(done.stderr) == made
    assert len(re.findall("Finished jobid: .*(trajector|report)", done.stderr)) == 2
    assert shard.read_bytes() == whole
    assert ttsnap("verify", finished.run) == 0
    assert finished.planned() == {}
    changed = {path for path, state in files(finished.run).items() if before.get(path) != state}
    assert {path.relative_to(finished.run).as_posix() for path in changed} == {
        *(f"trajectories/test.zarr/{one}" for one in store.shards(1)),
        "trajectories/test/block_0001.json",
        "logs/trajectories/test/block_0001.log",
        "benchmarks/trajectories/test/block_0001.jsonl",
        "trajectories/val/init.json",
        "logs/trajectories/val/init.log",
        "benchmarks/trajectories/val/init.jsonl",
        "trajectories/mended",
        SETTINGS,  # written whenever a run starts
    }
    inject("a flipped bit in a shard of a finished run: 1 job, then nothing to be done")
    inject("a truncated receipt of a store in a finished run: 1 job, then nothing to be done")


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_a_second_controller_is_refused(workflow: Workflow, inject: Callable[[str], None]) -> None:
    target = "results/twice/trajectories/train/block_0000.json"
    command = (target, "--config", "run=twice")
    locks = workflow.folder / ".snakemake/locks"
    with workflow.start(*command) as first:
        while not (locks.is_dir() and any(locks.iterdir())):
            assert first.poll() is None
            time.sleep(0.01)
        second = workflow.snakemake(*command)
        assert first.poll() is None
        assert second.returncode != 0
        assert "Directory cannot be locked" in second.stdout + second.stderr
        _, err = first.communicate()
    assert first.returncode == 0, err
    assert workflow.planned("run=twice", target=target) == {}
    store = workflow.folder / "results/twice/trajectories/train.zarr"
    assert [problem.block for problem in verify(store, store.with_suffix(""))] == [1]
    inject("a second controller on the same run: refused, the first ended as if alone")
