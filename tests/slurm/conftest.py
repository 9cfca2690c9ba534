"""A clone of the repository with tiny models, set up for a Slurm cluster of this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from tests.slurm.cluster import Unavailable, cluster, install
from tests.workflow.conftest import ROOT, Workflow, workflow

__all__ = ["workflow"]

T = TypeVar("T")

# Waiting is for slow machines; nothing here takes that long.
PATIENCE = 1800


@dataclass
class Controller:
    """A `snakemake --profile slurm` that was started."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def until(self, condition: Callable[[], T | None]) -> T:
        """Wait for something while it runs, and give it back."""
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.2)
        return found

    def finish(self) -> None:
        assert self.process.wait(PATIENCE) == 0, self.said


@dataclass(frozen=True)
class Clone:
    """The folder of a clone, and the environment that reaches its cluster."""

    folder: Path
    environment: dict[str, str]
    settings: dict[str, object]

    def run(self, *command: str) -> str:
        """What a command says that succeeds in the clone."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def snakemake(self, name: str, *arguments: str, **settings: object) -> Iterator[Controller]:
        """Start a run called ``name``; jobs are looked after more often than on a real cluster."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**self.settings, "run": name, **settings}))
        output = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--configfile", file]
        command += ["--slurm-init-seconds-before-status-checks", "2", *arguments]
        with output.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        try:
            yield Controller(process, output)
        finally:
            process.kill()
            process.wait()

    def jobs(self, controller: Controller) -> list[dict[str, str]]:
        """All that Slurm knows of the jobs of a controller, in the order of their ids."""
        started = re.search("SLURM run ID: (.*)", controller.said)
        if not started:
            return []
        text = self.run("scontrol", "--oneliner", "--all", "show", "jobs")
        jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines()]
        mine = [job for job in jobs if job.get("JobName") == started[1]]
        return sorted(mine, key=lambda job: int(job["JobId"]))

    def running(self, controller: Controller, rule: str) -> str | None:
        """What `scancel` calls a job of a rule, once there is one that Snakemake runs inside."""
        for job in self.jobs(controller):
            if rule_of(job) == rule and job["JobState"] == "RUNNING":
                log = Path(job["StdOut"])
                if log.is_file() and "Provided cores" in log.read_text(encoding="utf-8"):
                    return (
                        f"{job['ArrayJobId']}_{job['ArrayTaskId']}"
                        if is_task(job)
                        else job["JobId"]
                    )
        return None


def is_task(job: dict[str, str]) -> bool:
    """Whether a job is one of an array."""
    return "ArrayJobId" in job


def rule_of(job: dict[str, str]) -> str:
    """The rule, or the group of rules, that a job is of."""
    found = re.match(r"rule_(\w+?)(_wildcards_|$)", job["Comment"])
    assert found, job
    return found[1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Do not let it go unnoticed that there was no cluster."""
    for report in terminalreporter.getreports("skipped")[:1]:
        terminalreporter.section("Slurm was NOT tried", red=True, bold=True)
        terminalreporter.line(report.longrepr[2].removeprefix("Skipped: "))


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    """Where Slurm's commands and Snakemake reach the cluster."""
    pytest.importorskip("snakemake_executor_plugin_slurm")
    try:
        install()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with cluster() as reaching:
        # Python before others, but after the cluster's own srun.
        first, _, rest = reaching["PATH"].partition(os.pathsep)
        path = os.pathsep.join([first, str(Path(sys.executable).parent), rest])
        yield {**reaching, "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def clone(
    environment: dict[str, str], workflow: Workflow, tmp_path_factory: pytest.TempPathFactory
) -> Clone:
    """A clone of which just the lines marked EDIT were edited."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Snakefile", "rules", "envs", "workflow", "config", "ttsnap"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    (folder / "slurm").symlink_to("profiles/slurm")
    edit(folder / "slurm/config.yaml", {"slurm_account: myaccount": "slurm_account: research"})
    edit(
        folder / "slurm/partitions.yaml",
        {"  cpu: {": "  normal: {", "  gpu: {": "  accelerated: {"},
    )
    for name in ("generator", "clip", "prompts.json"):
        (folder / name).symlink_to(workflow.folder / name)
    # A device that is not `cpu` makes the rules ask for a GPU, and is the CPU where there is none.
    settings = {
        **workflow.settings,
        "narf": {"steps": [1], "epochs": 1, "batch_size": 4},
        "rewards": {"clip": {"path": "clip"}},
        "draft": None,
        "search": {
            "methods": ["best-of-n", "ttsnap"],
            "budgets": workflow.settings["search"]["budgets"],
            "prompts_per_job": 5,
        },
        "runtime": {"device": "auto", "batch_size": 8},
    }
    return Clone(folder, environment, settings)


def edit(file: Path, changes: dict[str, str]) -> None:
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
