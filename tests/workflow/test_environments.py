"""The conda environments: pinned, of one mind, and enough for what runs in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.workflow.conftest import ROOT, Workflow

STAGES = {
    "generate": ["model", "trajectory_store", "trajectories", "search"],
    "reward": ["reward_cost", "rewards", "tensor"],
    "narf": ["narf"],
    "analysis": ["evaluate", "plan", "simulate", "report"],
}
OTHERS = {"workflow", "image-reward"}
OWN = {"transformers", "diffusers", "huggingface-hub"}  # of ImageReward, which wants older ones

RUN = """
import sys
from importlib.metadata import packages_distributions

allowed = set(sys.argv[1].split(","))
known = {
    name: {package.lower().replace("_", "-") for package in packages}
    for name, packages in packages_distributions().items()
}

class Fence:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "ttsnap" and top in known and not known[top] & allowed:
            raise ModuleNotFoundError(f"no {name} in this environment")

sys.meta_path.insert(0, Fence())
exec(sys.argv[2])
"""


@cache
def pins(name: str) -> dict[str, str]:
    """Package -> requirement, of the pip part of an environment."""
    found = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    assert found["channels"] == ["conda-forge", "nodefaults"]
    *conda, pip = found["dependencies"]
    assert conda == ["python=3.11", "pip"]
    return {canonicalize_name(Requirement(line).name): line for line in pip["pip"]}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}


def closure(packages: list[str]) -> set[str]:
    """Packages and all that they depend on, as installed here."""
    seen: set[str] = set()
    left = list(packages)
    while left:
        name = canonicalize_name(left.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(requirement.name)
    return seen


def test_there_is_one_for_each_kind_of_stage() -> None:
    assert {file.stem for file in (ROOT / "envs").glob("*.yaml")} == {*STAGES, *OTHERS}
    stages = {file.stem for file in (ROOT / "ttsnap/stages").glob("[a-z]*.py")}
    assert stages == {stage for some in STAGES.values() for stage in some}


@pytest.mark.parametrize("name", [*STAGES, *OTHERS])
def test_every_package_is_pinned_as_in_the_constraints(name: str) -> None:
    locked = constraints()
    for package, line in pins(name).items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line)
        if package in locked and not (name == "image-reward" and package in OWN):
            assert canonicalize_name(line) == canonicalize_name(locked[package])
        else:
            assert name == "image-reward"


@pytest.mark.parametrize("name", [*STAGES, "workflow"])
def test_it_holds_what_is_imported_there(name: str) -> None:
    if name == "workflow":
        rules = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
        lines = [line for rule in rules for line in rule.read_text().splitlines()]
        code = "\n".join(line for line in lines if re.match(r"(from|import) ", line))
    else:
        code = "\n".join(f"import ttsnap.stages.{stage}" for stage in STAGES[name])
    allowed = ",".join(closure(list(pins(name))))
    done = subprocess.run(
        [sys.executable, "-c", RUN, allowed, code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


CONDA = """#!/bin/sh
case "$*" in
  "info --json") echo '{"conda_prefix": "/nowhere", "platform": "linux-64"}' ;;
  "--version") echo "conda 25.1.0" ;;
  "config --get channel_priority --json") echo '{"get": {"channel_priority": "strict"}}' ;;
  *) echo "unexpected: $*" >&2; exit 64 ;;
esac
"""
"""Answers what Snakemake asks before it makes any environment."""


def test_rules_name_the_right_one(
    workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda = tmp_path / "conda"
    conda.write_text(CONDA)
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    named = workflow.settings | {"run": "named"}
    changed = Workflow(workflow.folder, named)
    done = changed.snakemake("--list-conda-envs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"envs/([\w-]+)\.yaml", done.stdout)) == {*STAGES}

    rewards = named["rewards"] | {"imr": {"kind": "image-reward", "path": "clip"}}
    changed = Workflow(workflow.folder, named | {"rewards": rewards})
    done = changed.snakemake("--list-conda-envs")
    assert set(re.findall(r"envs/([\w-]+)\.yaml", done.stdout)) == {*STAGES, "image-reward"}
