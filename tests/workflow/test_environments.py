"""The conda environments: pinned, of one mind, and enough for what runs in them."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.rewards.environments import fail_or_skip
from tests.rewards.test_image_reward import BERT
from tests.tiny_image_reward import write_tokenizer
from tests.workflow.conftest import ROOT, Workflow

STAGES = {
    "generate": ["model", "trajectory_store", "trajectories", "preview", "drafts", "search"],
    "reward": ["reward_cost", "rewards", "tensor"],
    "narf": ["narf"],
    "analysis": ["budgets", "evaluate", "plan", "simulate", "report", "page"],
}
OTHERS = ["workflow", "image-reward"]

with_its_python = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the environments have Python 3.11"
)

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
    # Those of a benchmark run where `ttsnap bench` does, which is an environment that has all.
    workflow = {stage for stage in stages if not stage.startswith("bench_")}
    assert workflow == {stage for some in STAGES.values() for stage in some}


@pytest.mark.parametrize("name", [*STAGES, *OTHERS])
def test_every_package_is_pinned_as_in_the_constraints(name: str) -> None:
    locked = constraints()
    for package, line in pins(name).items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line)
        if package in locked:
            assert canonicalize_name(line) == canonicalize_name(locked[package])
        else:
            assert name == "image-reward"


def test_a_search_has_all_that_any_model_or_judge_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["judges"]]
    names = {canonicalize_name(Requirement(line).name) for line in needed}
    assert names - {"snakemake"} <= pins("generate").keys()
    assert pins("generate").items() <= pins("image-reward").items()


@with_its_python
@pytest.mark.slow
@pytest.mark.parametrize("name", [*STAGES, *OTHERS])
def test_its_pins_exist_and_go_together(name: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("\n".join(pins(name).values()))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--report", "report.json", "-r", "requirements.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode:
        fail_or_skip(done.stderr)
    report = json.loads((tmp_path / "report.json").read_text())
    found = {
        canonicalize_name(package["metadata"]["name"]): package["metadata"]["version"]
        for package in report["install"]
    }
    for package, line in pins(name).items():
        assert Requirement(line).specifier.contains(found[package])


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


@pytest.fixture
def conda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for conda comes first on the path."""
    folder = Path(__file__).parent / "conda/bin"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("conda")
def test_rules_name_the_right_one(workflow: Workflow) -> None:
    named = workflow.settings | {"run": "named"}
    changed = Workflow(workflow.folder, named)
    done = changed.snakemake("--list-conda-envs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"envs/([\w-]+)\.yaml", done.stdout)) == {*STAGES}

    rewards = named["rewards"] | {"imr": {"kind": "image-reward-package", "path": "clip"}}
    changed = Workflow(workflow.folder, named | {"rewards": rewards})
    done = changed.snakemake("--list-conda-envs")
    assert set(re.findall(r"envs/([\w-]+)\.yaml", done.stdout)) == {*STAGES, "image-reward"}


@pytest.mark.skipif(importlib.util.find_spec("ImageReward") is not None, reason="is installed")
def test_without_them_image_reward_says_what_it_needs(workflow: Workflow) -> None:
    options = {"tokenizer": str(workflow.folder / "clip")}
    imr = {"kind": "image-reward-package", "path": "clip", "options": options}
    settings = workflow.settings | {
        "run": "without",
        "rewards": {"imr": imr, "other": {"path": "other"}},
        "search": workflow.settings["search"] | {"reward": "imr"},
    }
    target = "results/without/rewards/imr/cost.json"
    done = Workflow(workflow.folder, settings).snakemake(target)
    assert done.returncode == 1
    log = (workflow.folder / "results/without/logs/rewards/imr/cost.log").read_text()
    (line,) = (line for line in log.splitlines() if line.startswith("error: "))
    assert "rewards.imr: kind image-reward-package runs in the environment that" in line
    assert "envs/image-reward.yaml describes, as with snakemake --sdm conda" in line
    assert "Traceback" not in done.stdout + done.stderr


def prepare_image_reward(made: Path, folder: Path) -> None:
    """Write random weights into ``folder``, with two of 24 layers in the image tower.

    That many are built, too, in the one of the ``made`` environments that has the package.
    """
    file = (ROOT / "envs/image-reward.yaml").read_text()
    (copy,) = (copy for copy in made.glob("*.yaml") if copy.read_text() == file)
    place = copy.with_suffix("")
    (blip,) = place.glob("lib/*/site-packages/ImageReward/models/BLIP/blip.py")
    blip.write_text(blip.read_text().replace("depth=24", "depth=2"))
    (folder / "med_config.json").write_text(json.dumps(BERT))
    write = [place / "bin/python", "-m", "tests.rewards.image_reward_weights", folder]
    subprocess.run(write, cwd=ROOT, check=True)


def used(folder: Path) -> dict[str, set[str]]:
    """Rule -> environments, by what Snakemake noted of the outputs."""
    names = {file.read_text(): file.stem for file in (ROOT / "envs").glob("*.yaml")}
    found: dict[str, set[str]] = defaultdict(set)
    for file in (folder / ".snakemake/metadata").iterdir():
        noted = json.loads(file.read_text())
        found[noted["rule"]].add(names[base64.b64decode(noted["conda_env"]).decode()])
    return found


@with_its_python
@pytest.mark.slow
@pytest.mark.usefixtures("conda")
def test_every_rule_runs_in_its_own(
    workflow: Workflow, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """From prompts to report, searching by ImageReward, then by CLIP with the generator alone."""
    for part in ("generator", "clip", "other", "prompts.json"):
        (tmp_path / part).symlink_to(workflow.folder / part)
    (tmp_path / "ttsnap").symlink_to(ROOT / "ttsnap")  # as in the folder of the repository
    (tmp_path / "imr").mkdir()
    write_tokenizer(tmp_path / "imr/tokenizer")
    split = {"file": "prompts.json", "prompts_per_job": 2, "images": 3, "steps": None}
    imr = {"kind": "image-reward-package", "path": "imr", "options": {"tokenizer": "imr/tokenizer"}}
    budgets = [4.5, 9.0, 13.5]  # one to three candidates, of four evaluations each
    settings: dict[str, Any] = workflow.settings | {
        "splits": {
            "train": split | {"start": 6, "stop": 8, "images": 2, "steps": [1]},
            "val": split | {"start": 8, "stop": 9},
            "test": split | {"start": 9, "stop": 10},
        },
        "rewards": {"imr": imr, "clip": {"path": "clip"}, "other": {"path": "other"}},
        "narf": {
            "steps": [1],
            "epochs": 1,
            "batch_size": 4,
            "lora": {"rank": 2, "targets": ["q_proj", "v_proj", "qkv", "query"]},
        },
        "costs": {"denoise": 1.0, "decode": 0.1},
        "simulation": {"budgets": budgets, "draws": 16},
        "search": {
            "methods": ["ttsnap"],
            "reward": "imr",
            "judge_reward": "other",
            "budgets": budgets[1:2],
        },
        "report": {"prompts": 1, "candidates": 2},
    }
    made = pytestconfig.cache.mkdir("conda")  # type: ignore[union-attr]
    flags = ["--sdm", "conda", "--conda-prefix", str(made)]
    started = Workflow(tmp_path, settings)
    done = started.snakemake(*flags, "--conda-create-envs-only")
    if done.returncode:
        fail_or_skip(done.stdout + done.stderr)
    prepare_image_reward(made, tmp_path / "imr")

    done = started.snakemake(*flags)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {rule: {name} for name, rules in STAGES.items() for rule in rules}
    expected |= {"awaited_trajectories": {"generate"}, "search": {"image-reward"}}
    for rule in ("reward_cost", "rewards", "tensor", "narf"):
        expected[rule].add("image-reward")
    assert used(tmp_path) == expected
    results = pd.read_parquet(started.run / "search/results.parquet")
    assert results[["reward", "held_out"]].notna().all(axis=None)

    by_clip = settings | {"search": settings["search"] | {"reward": "clip"}}
    done = Workflow(tmp_path, by_clip).snakemake(*flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert used(tmp_path)["search"] == {"generate"}
