"""The real workflow on tiny models: one finished run that all tests look at."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import tiny_clip

ROOT = Path(__file__).parents[2]

PROMPTS = [
    "a plain prompt",
    "emoji 🦊 and ünïcode",
    "quotes \" and ' and `backticks` and $(date) {wildcards}",
    "slashes / and \\ and ../..",
    "new\nlines\tand tabs",
    "long " * 200,
    *(f"prompt {i}" for i in range(8)),
]


@dataclass(frozen=True)
class Workflow:
    """A folder to run the workflow in, and its configuration there."""

    folder: Path
    settings: dict[str, object]

    @property
    def run(self) -> Path:
        return self.folder / "results" / "tiny"

    def start(
        self, *arguments: str, config: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Start `snakemake` and do not wait for it.

        It has the settings, or another configuration, and variables of its environment.
        """
        if config is None:
            text = yaml.safe_dump(self.settings)
            config = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.yaml"
            config.write_text(text)
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile"]
        command += ["--directory", self.folder, "--configfile", config, "--cores", "2"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
            cwd=ROOT,
        )

    def snakemake(
        self, *arguments: str, config: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `snakemake` as :meth:`start` does."""
        with self.start(*arguments, config=config, **environment) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def planned(self, *config: str, target: str = "all") -> dict[str, int]:
        """Rule -> jobs of a dry run, with changes to the settings given as KEY=VALUE."""
        changes = ["--config", *config] if config else []
        done = self.snakemake(target, "--dry-run", *changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return job_counts(done.stdout + done.stderr)


def job_counts(output: str) -> dict[str, int]:
    """The numbers of Snakemake's job statistics, without targets."""
    rows: Sequence[tuple[str, str]] = re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("all", "mended", "total")}


@pytest.fixture(scope="session")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The workflow on tiny models, not yet run."""
    folder = tmp_path_factory.mktemp("workflow")
    tiny_stable_diffusion(folder / "generator")
    tiny_clip(folder / "clip")
    tiny_clip(folder / "other", seed=1)
    (folder / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    split = {"file": "prompts.json", "prompts_per_job": 3}
    settings = {
        "run": "tiny",
        "model": {"path": "generator", "preview": {"kind": "linear"}},
        "sampling": {
            "steps": 4,
            "guidance_scale": 1.5,
            "height": 32,
            "width": 32,
            "scheduler": {
                "name": "EulerDiscreteScheduler",
                "options": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
            },
        },
        "splits": {
            "train": {**split, "start": 0, "stop": 6, "images": 2, "steps": [1, 2]},
            "val": {**split, "start": 6, "stop": 9, "images": 8, "steps": None},
            "test": {**split, "start": 9, "stop": 14, "images": 8, "steps": None},
        },
        "rewards": {"clip": {"path": "clip"}, "other": {"path": "other"}},
        "narf": {"steps": [1, 2], "epochs": 1, "batch_size": 4},
        "draft": {"steps": 2},
        "simulation": {"budgets": [0.0, 0.0, 0.0], "draws": 64},
        "search": {
            "methods": ["best-of-n", "ttsnap", "beam"],
            "options": {"beam": {"noises": 2}},
            "judge_reward": "other",
            "budgets": [0.0],
            "prompts_per_job": 3,
        },
        "report": {"prompts": 1, "candidates": 2},
        "runtime": {"device": "cpu", "batch_size": 8},
        "judge": None,
    }
    full = full_cost(folder)
    settings["simulation"]["budgets"] = [full * n for n in (1.1, 2.1, 3.1)]
    settings["search"]["budgets"] = [full * 2.1]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    return Workflow(folder, settings)


def full_cost(folder: Path) -> float:
    """TFLOPs of one candidate of best-of-N."""
    from ttsnap.config import Model, RewardSettings, Runtime, Sampling
    from ttsnap.diffusion import load_sampler
    from ttsnap.rewards import load_reward

    sampler = load_sampler(Model(path=str(folder / "generator")), Sampling(steps=4), Runtime())
    costs = sampler.costs()
    reward = load_reward(RewardSettings(path=str(folder / "clip")), name="clip", device="cpu")
    return 4 * costs["denoise"] + costs["decode"] + reward.tflops(32, 32)


@pytest.fixture(scope="session")
def finished(workflow: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The workflow after it ran to the end: a copy of the one run that all workers share."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / "finished"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            done = workflow.snakemake()
            assert done.returncode == 0, done.stdout + done.stderr
            shutil.copytree(workflow.folder, made)
    copy = tmp_path_factory.mktemp("workflow") / "finished"
    shutil.copytree(made, copy)
    return replace(workflow, folder=copy)
