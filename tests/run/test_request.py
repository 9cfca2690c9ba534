"""What a search decides before a model is loaded: every model here lacks its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttsnap.config import Config, load_config
from ttsnap.errors import UserError
from ttsnap.run.request import Request, load, request_of
from ttsnap.run.status import SETTINGS
from ttsnap.run.trained import made_for
from ttsnap.searching.request import PICKSCORE

SAMPLING = {
    "steps": 6,
    "guidance_scale": 2.0,
    "height": 64,
    "width": 64,
    "scheduler": {"name": "DDIMScheduler", "options": {"eta": 0.0}},
}
PLAN = {
    "kind": "plan",
    "steps": 6,
    "unit": "TFLOPs",
    "costs": {"denoise": 1.0, "decode": 0.1, "reward": 0.1, "preview": None},
    "plans": [
        {
            "strategy": strategy,
            "reward": "light",
            "budget": 50.0,
            "n": 12,
            "checks": [{"step": 2, "keep": 0.5}],
        }
        for strategy in ("ttsp", "ttsnap")
    ],
    "robust": [],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models without weights, and a LoRA, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other"):
        Path(name).mkdir()
        index = json.dumps({"_class_name": "StableDiffusionPipeline"})
        Path(name, "model_index.json").write_text(index)
    Path("style.safetensors").touch()
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Config:
    """A finished run of a model of one's own, with its plan and its checkpoints."""
    settings = {
        "run": "mine",
        "model": {"path": "mine"},
        "sampling": SAMPLING,
        "rewards": {"light": {"kind": "brightness"}, "small": {"kind": "compressibility"}},
        "narf": {"steps": [1, 2]},
        "search": {"reward": "light"},
        "judge": None,
    }
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    config = load_config("mine.yaml")
    settled = config.model.model_copy(update={"family": "stable-diffusion"})
    run = Path("results/mine")
    for place in ("plan", *(f"narf/light/step_{step:02d}" for step in config.narf.steps)):
        (run / place).mkdir(parents=True)
    (run / SETTINGS).write_text(config.model_copy(update={"model": settled}).model_dump_json())
    (run / "plan/light.json").write_text(json.dumps(PLAN))
    return config


def asked(
    config: Config | None = None, say: Callable[[str], None] = lambda line: None, **given: Any
) -> Request:
    """A request of the command, of which only what matters is named."""
    unsaid = dict.fromkeys(
        ("model", "components", "reward", "dtype", "quantization", "method", "plan", "narf")
    )
    unsaid |= {"budget": None, "loras": [], "sampling": {}, "runtime": {}, "options": {}}
    return request_of(config, say=say, **{**unsaid, **given})


def test_a_run_serves_the_search_that_it_was_made_for(run: Config) -> None:
    said: list[str] = []
    request = asked(run, said.append)
    assert request.method.name == "ttsnap"
    assert request.run == Path("results/mine")
    assert request.plan == PLAN
    assert said == []


@pytest.mark.parametrize(
    ("given", "difference"),
    [
        ({"model": "other"}, "its model.path is"),
        ({"loras": ["style.safetensors:0.5"]}, "its model.loras is []"),
        ({"quantization": "int8"}, 'its model.quantization is null, not "int8"'),
        ({"sampling": {"steps": 4}}, "its sampling.steps is 6, not 4"),
        ({"sampling": {"guidance_scale": 0.0}}, "its sampling.guidance_scale is 2.0, not 0.0"),
        ({"sampling": {"height": 32}}, "its sampling.height is 64, not 32"),
        ({"sampling": {"scheduler": "PNDMScheduler"}}, 'name is "DDIMScheduler", not "PNDM'),
        ({"sampling": {"scheduler": "DDIMScheduler"}}, 'options is {"eta": 0.0}, not {}'),
    ],
)
def test_a_run_serves_no_other_search(run: Config, given: dict[str, Any], difference: str) -> None:
    said: list[str] = []
    request = asked(run, said.append, **given)
    assert (request.method.name, request.run, request.plan) == ("ttsp", None, None)
    (line,) = said
    assert line.startswith("results/mine/plan/light.json: left out, made for another search: ")
    assert difference in line
    for one in ({"method": "ttsnap"}, {"narf": True}, {"narf": True, "method": "best-of-n"}):
        with pytest.raises(UserError, match="narf: was made for another search: its") as refused:
            asked(run, **given, **one)
        assert difference in str(refused.value)
        assert "\n" not in str(refused.value)


def test_another_reward_has_neither_plan_nor_checkpoints(run: Config) -> None:
    request = asked(run, reward="small")
    assert (request.method.name, request.plan) == ("ttsp", None)
    with pytest.raises(UserError, match="small/step_01: no NARF checkpoint for step 1"):
        asked(run, reward="small", method="ttsnap")
    with pytest.raises(UserError, match="light/step_03: no NARF checkpoint for step 3"):
        asked(run, options={"schedule": "3:0.5"})
    moved = run.model_copy(update={"rewards": run.rewards | {"light": run.rewards["small"]}})
    with pytest.raises(UserError, match=r'rewards\.light\.kind is "brightness", not "compress'):
        asked(load_config(moved.model_dump()), method="ttsnap")


def test_a_model_alone_knows_no_run(run: Config) -> None:
    request = asked(model="mine", reward="brightness")
    assert (request.method.name, request.run, request.plan) == ("ttsp", None, None)
    assert request.sampling == {}
    assert (request.budget, request.runtime.device, request.model.dtype) == (None, "auto", "auto")
    assert request.folder == Path("results/search")
    with pytest.raises(UserError, match="there is no run that trained any for this model"):
        asked(model="mine", reward="brightness", method="ttsnap")


def test_a_config_with_a_model_alone(folder: Path) -> None:
    request = asked(load_config({"model": {"path": "mine"}}), reward="brightness")
    assert request.sampling == {}
    assert (request.budget, request.runtime.device, request.model.dtype) == (None, "auto", "auto")
    some = {"model": {"path": "mine"}, "search": {"methods": ["ttsp"]}}
    assert asked(load_config(some), reward="brightness").budget is None
    assert asked(load_config(some | {"search": {"budgets": [3]}}), reward="brightness").budget


def test_prices_are_those_of_the_model_of_the_configuration(run: Config) -> None:
    prices = {"denoise": 3.0, "decode": 1.0, "rewards": {"light": 0.5}}
    priced = load_config(run.model_dump(exclude_unset=True) | {"costs": prices})
    assert asked(priced).costs.denoise == 3
    for given in ({"model": "other"}, {"sampling": {"height": 32}}):
        costs = asked(priced, **given).costs
        assert (costs.denoise, costs.decode, costs.rewards) == (None, None, {"light": 0.5})


def test_a_plan_that_is_given(run: Config) -> None:
    said: list[str] = []
    Path("plan.json").write_text(json.dumps(PLAN))
    request = asked(run, said.append, plan=Path("plan.json"), method="ttsp")
    assert request.plan == PLAN
    assert said == ["plan.json: does not tell its model and reward; taken as made for these"]
    known = made_for(asked(run).model, run.sampling, {"light": run.rewards["light"]})
    Path("plan.json").write_text(json.dumps(PLAN | {"provenance": {"made_for": known}}))
    assert asked(run, plan=Path("plan.json"), method="ttsp").plan is not None
    with pytest.raises(UserError, match=r"leave out --plan, for a schedule that ships"):
        asked(run, plan=Path("plan.json"), sampling={"guidance_scale": 3.0})
    Path("plan.json").write_text(json.dumps(PLAN))
    with pytest.raises(UserError, match="plan: made for 6 steps, the sampler takes 4"):
        asked(run, plan=Path("plan.json"), sampling={"steps": 4})
    with pytest.raises(UserError, match="plan: nothing for ttsp and brightness"):
        asked(model="mine", reward="brightness", plan=Path("plan.json"))


@pytest.mark.parametrize("name", [None, PICKSCORE])
def test_pickscore_offline(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    request = asked(model="mine", say=said.append, reward=name)
    assert list(request.rewards) == ["PickScore_v1"]
    assert len(said) == (name is None)
    with pytest.raises(UserError, match="is not in the cache and the hub cannot be") as refused:
        load(request)
    assert "give another --reward KIND:PATH" in str(refused.value)
    assert "\n" not in str(refused.value)


Q = ["--reward", "brightness"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--steps", "0"], "steps: should be greater than 0, not 0"),
        (["--guidance", "-1"], "guidance_scale: should be greater than or equal to 0, not -1"),
        (["--guidance", "nan"], "guidance_scale: should be a finite number, not NaN"),
        (["--height", "37"], "height: should be a multiple of 4, not 37"),
        (["--width", "0"], "width: should be greater than 0, not 0"),
        (["--batch-size", "0"], "batch_size: should be greater than 0, not 0"),
        (["--threads", "0"], "threads: expected a whole number of 1 or more, not 0"),
        (["--seed", "-1"], "seed: expected a whole number of 0 or more, not -1"),
        (["--dtype", "fp16"], "dtype: should be 'auto', 'float32', 'float16' or 'bfloat16'"),
        (["--device", "tpu"], "device: should match pattern"),
        (["--scheduler", "ddim"], "scheduler 'ddim': expected a class of diffusers"),
        (["--budget", "nan"], "budget 'nan': expected a number above 0"),
        (["--method", "bem"], "method bem: unknown; did you mean beam?"),
        (["--option", "bems=2"], "has no option bems"),
        (["--schedule", "0:2"], "keep must lie in (0, 1]"),
        (["--schedule", "5:0.5", "--steps", "6"], "step 5 is too late"),
        (["--reward", "hps"], "reward: hps is neither MODULE:CLASS nor aesthetic"),
        (["--reward", "clip:none/here/at/all"], "is neither a local path nor a hub id"),
        (["--reward", "clip:other"], "other: expected a CLIP model, found None"),
        (["--plan", "none.json"], "none.json: no plan here"),
        (["--out", "style.safetensors"], "cannot be made, style.safetensors is a file"),
        (["--lora", "none.safetensors"], "--lora none.safetensors: no such file"),
        (["--device", "cuda:99"], "runtime.device: cuda:99 is not usable"),
        ([], "mine has no folder unet"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    ttsnap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    parts = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DCondition"]}
    Path("mine/model_index.json").write_text(json.dumps(parts))
    assert ttsnap("search", "a cat", "--model", "mine", *Q, *arguments) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"sampling": {"steps": 0}}, "sampling.steps: should be greater than 0, not 0"),
        ({"sampling": {"height": 37}}, "sampling.height: should be a multiple of 4, not 37"),
        ({"sampling": {"guidance_scale": float("nan")}}, "should be a finite number"),
        ({"runtime": {"batch_size": 0}}, "runtime.batch_size: should be greater than 0"),
        ({"runtime": {"device": "tpu"}}, "runtime.device: should match pattern"),
        ({"model": {"path": "mine", "dtype": "fp16"}}, "model.dtype: should be 'auto', 'float32'"),
    ],
)
def test_a_configuration_is_as_strict(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(section)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_is_imported_to_decide(run: Config) -> None:
    import subprocess

    lines = [
        "import sys",
        "from tests.run.test_request import asked",
        "from ttsnap.config import load_config",
        "assert asked(load_config('mine.yaml')).method.name == 'ttsnap'",
        "assert not {'torch', 'diffusers', 'transformers', 'pandas'} & {*sys.modules}",
    ]
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env={"PYTHONPATH": root})
