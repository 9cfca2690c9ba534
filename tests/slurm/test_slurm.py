"""`snakemake --profile slurm` on a cluster where jobs hang, are cancelled, or lose their master."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import Clone, Controller, is_task, rule_of
from tests.workflow.conftest import job_counts
from ttsnap.store.receipts import block_receipt
from ttsnap.store.trajectories import open_store
from ttsnap.store.verify import verify

pytestmark = pytest.mark.slurm

TRAIN_OR_VAL = "awaited_trajectories"
ON_GPU = {"model", TRAIN_OR_VAL, "trajectories", "rewards", "narf", "tensor", "search"}
END = "end_evaluate_page_report_simulate"
ON_CPU = {"preview", "reward_cost", "plan", END}


@pytest.fixture(scope="module")
def survivor(clone: Clone) -> Iterator[Controller]:
    """A whole run. A job of it hung until its time was over, another one was cancelled."""
    limits = ["reward_cost:runtime=attempt**4", "search:gpu_model='h100'"]
    with clone.snakemake("survivor", "--set-resources", *limits) as controller:
        hung = controller.until(lambda: clone.running(controller, "reward_cost"))
        clone.run("scancel", "--full", "--signal=STOP", hung)
        unlucky = controller.until(lambda: clone.running(controller, TRAIN_OR_VAL))
        clone.run("scancel", unlucky)
        controller.finish()
        print(controller.said)  # shown where a test fails, as are the logs of jobs that failed
        for log in sorted((clone.folder / ".snakemake/slurm_logs").rglob("*.log")):
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8')[-3000:]}")
        yield controller


@pytest.fixture(scope="module")
def jobs(clone: Clone, survivor: Controller) -> list[dict[str, str]]:
    return clone.jobs(survivor)


def test_every_stage_is_a_job(jobs: list[dict[str, str]]) -> None:
    completed = Counter(rule_of(job) for job in jobs if job["JobState"] == "COMPLETED")
    # At least: on a machine that is busy one is sometimes submitted again that was on its way.
    assert completed >= Counter(
        {"model": 1, TRAIN_OR_VAL: 2 + 1, "trajectories": 2, "reward_cost": 1, "rewards": 2}
        | {"preview": 1, "narf": 2, "tensor": 8, "plan": 1, "search": 2, END: 1}
    )
    assert {job["Account"] for job in jobs} == {"research"}


def test_shards_are_submitted_as_arrays(jobs: list[dict[str, str]]) -> None:
    arrays = Counter(rule_of(job) for job in jobs if is_task(job))
    # A shard that is the only one ready, such as that of val, is no array. One may be submitted
    # again, as above.
    assert set(arrays) == {TRAIN_OR_VAL, "trajectories"}
    assert min(arrays.values()) >= 2


def test_just_the_rules_that_use_a_gpu_take_one(jobs: list[dict[str, str]]) -> None:
    for job in jobs:
        rule, gpus = rule_of(job), re.findall("gpu:.*", job.get("TresPerJob", ""))
        if rule in ON_GPU:
            assert (gpus, job["Partition"]) == (
                ["gpu:h100:1" if rule == "search" else "gpu:1"],
                "accelerated",
            )
        else:
            assert (gpus, job["Partition"]) == ([], "normal")
            assert rule in ON_CPU


def test_a_job_that_was_cancelled_is_submitted_again(jobs: list[dict[str, str]]) -> None:
    (cancelled,) = (job for job in jobs if job["JobState"] == "CANCELLED")
    assert rule_of(cancelled) == TRAIN_OR_VAL
    asked = Counter(memory(job) for job in jobs if rule_of(job) == TRAIN_OR_VAL)
    assert asked[memory(cancelled)] == 3
    assert asked[2 * memory(cancelled)] >= 1


def test_a_job_that_hung_is_given_more_time(jobs: list[dict[str, str]]) -> None:
    hung, again = (job for job in jobs if rule_of(job) == "reward_cost")
    assert (hung["JobState"], hung["TimeLimit"]) == ("TIMEOUT", "00:01:00")
    assert (again["JobState"], again["TimeLimit"]) == ("COMPLETED", "00:16:00")
    assert memory(again) == 2 * memory(hung)


def memory(job: dict[str, str]) -> float:
    """Gigabytes that a job asked for; an array asks for a megabyte more."""
    return round(int(job["MinMemoryNode"].removesuffix("M")) / 1000, 1)


def test_the_run_is_whole(clone: Clone, survivor: Controller) -> None:
    run = clone.folder / "results/survivor"
    assert (run / "summary.json").is_file()
    for store in (run / "trajectories").glob("*.zarr"):
        assert verify(store, store.with_suffix("")) == []
    again = clone.run("snakemake", "--profile", "slurm", "--configfile", "survivor.yaml", "-n")
    assert "Nothing to be done" in again


def test_a_repair_makes_anew_just_what_was_damaged(clone: Clone, survivor: Controller) -> None:
    run = clone.folder / "results/survivor"
    shard = run / "trajectories/test.zarr" / open_store(run / "trajectories/test.zarr").shards(1)[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    clone.run("ttsnap", "repair", str(run))
    with clone.snakemake("survivor") as controller:
        controller.finish()
    assert Counter(map(rule_of, clone.jobs(controller))) == {"trajectories": 1}
    assert shard.read_bytes() == whole
    clone.run("ttsnap", "verify", str(run))


def test_finished_shards_outlive_the_controller(clone: Clone) -> None:
    run = clone.folder / "results/orphan"
    path, receipts = run / "trajectories/train.zarr", run / "trajectories/train"
    targets = [f"{block_receipt(receipts, block).relative_to(clone.folder)}" for block in range(6)]
    train = {**clone.settings["splits"]["train"], "prompts_per_job": 1}
    splits = {**clone.settings["splits"], "train": train}
    done = rf"Finished jobid: \d+ \(Rule: {TRAIN_OR_VAL}\)"

    with clone.snakemake("orphan", *targets, splits=splits) as first:
        task = first.until(lambda: clone.running(first, TRAIN_OR_VAL))
        # Three at a time, and the others wait as on a busy cluster.
        clone.run("scontrol", "hold", f"{task.partition('_')[0]}_[4-6]")
        first.until(lambda: len(re.findall(done, first.said)) == 3)
        first.process.kill()
        first.process.wait()
    (name,) = re.findall("SLURM run ID: (.*)", first.said)
    clone.run("scancel", f"--name={name}")
    while clone.run("squeue", "--noheader", f"--name={name}"):
        time.sleep(0.2)
    store = open_store(path)
    finished = [block for block in range(6) if block_receipt(receipts, block).is_file()]
    kept = identity([path / shard for block in finished for shard in store.shards(block)])
    assert len(finished) == 3

    clone.run("snakemake", "--profile", "slurm", "--configfile", "orphan.yaml", "--unlock")
    with clone.snakemake("orphan", *targets, splits=splits) as second:
        second.finish()
    assert job_counts(second.said) == {TRAIN_OR_VAL: 3}
    assert identity(list(kept)) == kept
    assert verify(path, receipts) == []


def identity(paths: list[Path]) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}
