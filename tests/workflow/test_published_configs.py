"""The configurations of well-known models: complete, pinned, and understood by the workflow."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.diffusion.test_loras import diffusers_format
from tests.tiny_clip import tiny_clip
from tests.tiny_families import tiny
from tests.workflow.conftest import ROOT, Workflow, job_counts
from ttsnap import cli
from ttsnap.config import Model, RewardSettings, Runtime, Sampling, load_config
from ttsnap.diffusion import VIDEOS, load_sampler
from ttsnap.prompts import load_splits
from ttsnap.rewards import load_reward
from ttsnap.run.check import check
from ttsnap.run.fetch import sources
from ttsnap.store.trajectories import open_store

NAMES = ["sd15", "sdxl", "flux", "sd35", "pixart-sigma"]
WITH_LORA = {"sdxl-dpo": 15, "sdxl-lightning": 3, "sdxl-lora": 3}
FEW_STEPS = {"z-image-turbo": 6, "flux2-klein": 3, "sana-sprint": 1}
RECENT = {"qwen-image": 15, "chroma": 15, **FEW_STEPS, **WITH_LORA}
"""Name -> steps that have finetuned rewards."""
WITH_PROMPT = ["ltx", "wan", "wan22", "sana-sprint", *WITH_LORA]
PROMPTS = dict.fromkeys(WITH_PROMPT, "a fox in snow") | {"edm": "red"}
each_config = pytest.mark.parametrize("name", NAMES)


def file(name: str) -> Path:
    return ROOT / "config" / f"{name}.yaml"


@pytest.mark.parametrize("name", [*NAMES, *RECENT])
def test_it_is_complete_and_pinned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(file(name))
    check(config, workflow=True)
    assert config.run == name
    assert [len(prompts) for prompts in load_splits(config.splits).values()] == [40, 10, 10]
    needed = {source.place for source in sources(config)}
    assert needed - {"model.loras.0"} == {
        "model",
        "rewards.imr",
        "rewards.imr.options.tokenizer",
        "rewards.pic",
        "rewards.hps",
        "rewards.hps.options.clip",
    }
    assert ("model.loras.0" in needed) is (name in WITH_LORA)
    assert config.narf.of("imr").learning_rate == 3e-6
    assert {config.narf.of(reward).learning_rate for reward in ("pic", "hps")} == {5e-7}
    assert config.narf.steps == list(range(RECENT.get(name, 15)))


@pytest.mark.parametrize("name", [*NAMES, *RECENT, "edm", "ltx", "wan"])
def test_its_model_and_rewards_are_pinned(name: str) -> None:
    """A configuration that names a branch, or a placeholder, is not read at all."""
    pinned = {source.place for source in sources(load_config(file(name)))}
    assert pinned > ({"model"} if name != "edm" else set())


CONFIGS = [path.stem for path in (ROOT / "config").glob("*.yaml") if path.stem != "methods"]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_its_costs_are_counted_before_anything_is_downloaded(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the numbers that the file itself names."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["ttsnap", "costs", str(file(name))])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    said = re.search(
        r"([\d.]+) TFLOPs an evaluation(?:, ([\d.]+) a decode)?", file(name).read_text()
    )
    for number in said.groups() if said else ():
        assert number is None or f" {number} " in printed
    for reward in load_config(file(name)).rewards:
        assert f"full run, {load_config(file(name)).sampling.steps} steps, {reward} " in printed


@each_config
def test_the_workflow_plans_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    workflow = Workflow(tmp_path, {})
    done = workflow.snakemake("--dry-run", "--quiet", config=file(name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_plans_edm(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = Workflow(tmp_path, {}).snakemake("--dry-run", config=file("edm"))
    assert done.returncode == 0, done.stdout + done.stderr
    planned = job_counts(done.stdout + done.stderr)
    assert planned["narf"] == 5
    assert planned["search"] == 8


@pytest.mark.parametrize("family", VIDEOS)
def test_the_workflow_refuses_videos(tmp_path: Path, family: str) -> None:
    done = Workflow(tmp_path, {}).snakemake("--dry-run", config=file(family))
    assert done.returncode != 0
    assert f"model.family: {family} makes videos" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("edm", ["--method", "best-of-n"]),
        ("edm", ["--method", "eps-greedy"]),
        ("ltx", ["--method", "ttsp", "--schedule", "2:0.5"]),
        ("wan", ["--method", "ttsp", "--schedule", "2:0.5"]),
        ("sana-sprint", ["--method", "smc"]),
        ("sdxl-lora", ["--method", "smc"]),
        ("sdxl-lightning", ["--method", "ttsp", "--schedule", "1:0.5"]),
    ],
)
def test_a_tiny_model_is_searched_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(file(name).read_text())
    family = settings["model"]["family"]
    pipe = tiny(family, tmp_path / "model")
    loras = settings["model"].get("loras", [])
    settings["model"] = {"family": family, "path": "model"}
    if loras:
        diffusers_format(pipe, tmp_path / "lora.safetensors", "unet")
        settings["model"]["loras"] = [{"path": "lora.safetensors", "scale": 0.1}]
    settings["sampling"] |= {"height": 32, "width": 32}
    if family in VIDEOS:
        settings["sampling"] |= {"steps": 9, "frames": 5}
    settings["rewards"]["bright"] = {"kind": "brightness"}
    settings["runtime"]["device"] = "cpu"
    Path("tiny.yaml").write_text(yaml.safe_dump(settings))
    common = ["--config", "tiny.yaml", "--reward", "bright", "--out", "out"]
    evaluations = 4 * settings["sampling"]["steps"]
    command = ["ttsnap", "search", PROMPTS[name], *common, "--budget", f"{evaluations}nfe"]
    monkeypatch.setattr(sys, "argv", [*command, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    (found,) = (path for path in Path("out").iterdir() if path.is_dir())
    last = json.loads((found / "trace.jsonl").read_text().splitlines()[-1])
    assert last["spent"] <= evaluations
    assert (found / "best.png").is_file()
    assert (found / "best.mp4").is_file() is (family in VIDEOS)
    used = json.loads(Path("out/config.json").read_text())["sampling"]["scheduler"]
    churned = "eps-greedy" in arguments
    assert ("S_churn" in used["options"]) is churned
    if loras:
        with Image.open(found / "best.png") as picture:
            assert picture.text["model"] == "model + lora.safetensors:0.1"
            record = json.loads(picture.text["ttsnap"])
        (recorded,) = record["generator"]["model"]["loras"]
        assert (recorded["path"], recorded["scale"]) == ("lora.safetensors", 0.1)
        assert used["name"] == settings["sampling"]["scheduler"]["name"]


OWN = """
class Redness:
    @classmethod
    def load(cls, settings, **_):
        raise AssertionError("nothing is loaded")
"""


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"kind": "brightness"}, "rewards.other: kind brightness cannot be finetuned"),
        (
            {"kind": "openai", "options": {"model": "gpt"}},
            "rewards.other: kind openai cannot be finetuned",
        ),
        (
            {"kind": "ensemble", "options": {"by": "rank", "rewards": {"pic": 1.0}}},
            "rewards.other: kind ensemble cannot be finetuned",
        ),
        ({"kind": "own:Redness"}, "rewards.other: kind own:Redness cannot be finetuned"),
        ({"kind": "own:Rednes"}, "rewards.other.kind: own:Rednes cannot be imported (module 'own'"),
        ({"kind": "ow:Redness"}, "rewards.other.kind: ow:Redness cannot be imported (No module"),
    ],
)
def test_what_cannot_be_finetuned_is_refused_before_any_job(
    tmp_path: Path, reward: dict[str, object], words: str
) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "own.py").write_text(OWN)
    settings = yaml.safe_load(file("sd15").read_text())
    settings["rewards"]["other"] = reward
    done = Workflow(tmp_path, settings).snakemake("--dry-run")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert words in said
    assert "Traceback" not in said


def test_what_was_not_fetched_is_told_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    workflow = Workflow(tmp_path, {})
    done = workflow.snakemake(config=file("flux"), HF_HOME=str(tmp_path / "hub"))
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "model: black-forest-labs/FLUX.1-dev@3de623fc is not on this machine" in said
    assert "run `ttsnap fetch`" in said
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()


FAMILIES = {
    "sd15": "stable-diffusion",
    "sdxl": "sdxl",
    "flux": "flux",
    "sd35": "stable-diffusion-3",
    "pixart-sigma": "pixart-sigma",
    "z-image-turbo": "z-image",
    "flux2-klein": "flux2-klein",
    "qwen-image": "qwen-image",
    "chroma": "chroma",
    "sana-sprint": "sana-sprint",
    "edm": "edm",
}


def name_all_classes(index: Path) -> None:
    """Give every name among the prompts to a class of the tiny model."""
    names = json.loads((ROOT / "config/prompts/imagenet.json").read_text())
    settings = json.loads(index.read_text()) | {"id2label": {"0": ",".join(names)}}
    index.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "sdxl" else [pytest.mark.slow]) for name in FAMILIES],
)
def test_it_runs_from_end_to_end_on_a_tiny_model(name: str, tmp_path: Path) -> None:
    """All that is changed is what makes the models tiny, and the numbers of things."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    tiny(FAMILIES[name], tmp_path / "model")
    if name == "edm":
        name_all_classes(tmp_path / "model/model_index.json")
    tiny_clip(tmp_path / "clip")
    settings = yaml.safe_load(file(name).read_text())
    settings["model"] |= {"path": "model", "revision": None, "dtype": "float32"}
    sampling = settings["sampling"]
    steps, early = (2, [0]) if name == "sana-sprint" else (5, [1, 2])
    sampling |= {"steps": steps, "height": 32, "width": 32}
    if "negtome" in sampling:
        sampling["negtome"] |= {"group": 4, "min_width": 2, "t_end": 500}
    for images, (split, prompts) in zip((4, 8, 8), settings["splits"].items(), strict=True):
        stop = prompts["start"] + 3
        prompts |= {"stop": stop, "images": images, "prompts_per_job": 3}
        if split == "train":
            prompts["steps"] = early
    searching = settings["search"]["reward"]
    settings["rewards"] = {
        reward: {"kind": "clip", "path": "clip"} if reward == searching else given
        for reward, given in settings["rewards"].items()
        if reward in (searching, settings["search"].get("judge_reward"))
    }
    settings["narf"] |= {"steps": early, "learning_rates": {}, "batch_size": 4}
    sampler = load_sampler(
        Model(**settings["model"] | {"path": str(tmp_path / "model")}),
        Sampling(**sampling),
        Runtime(),
    )
    reward = load_reward(RewardSettings(path=str(tmp_path / "clip")), name=searching)
    costs = sampler.costs()
    full = steps * costs["denoise"] + costs["decode"] + reward.tflops(32, 32)
    settings["simulation"] |= {"budgets": [full * n for n in (1.5, 2.5, 3.5)], "draws": 64}
    settings["search"] |= {"budgets": [full * 4.5], "prompts_per_job": 3}
    settings["report"] = {"prompts": 1, "candidates": 2}
    settings["runtime"] = {"device": "cpu", "batch_size": 8}
    workflow = Workflow(tmp_path, settings)
    done = workflow.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "results" / name
    assert json.loads((run / "summary.json").read_text())["live"]
    store = open_store(run / "trajectories/test.zarr")
    assert store.group_size == (4 if "negtome" in sampling else 1)
