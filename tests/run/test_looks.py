"""`ttsnap search` by the plan of a run whose checks see decodes, or previews where these pay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import SIZE, clip_reward, tiny_clip
from ttsnap.config import Lora, Narf, load_config
from ttsnap.diffusion.linear_preview import LinearPreview
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.run.status import SETTINGS

Command = Callable[..., int]
PRICES = {"denoise": 1.0, "decode": 5.0, "preview": 0.01, "rewards": {"clip": 0.25}}


def plan() -> dict[str, Any]:
    """Decodes are planned for TTSp; the best sees previews, and is TTSnap at the larger budget."""
    about: dict[str, Any] = {"reward": "clip", "n": 4}
    early, late = ([{"step": step, "keep": 0.5}] for step in (0, 1))
    plans = [
        about | {"strategy": strategy, "run_as": runs, "budget": budget, "checks": checks}
        for strategy, runs, budget, checks in (
            ("ttsp", "ttsp", 22.0, late),
            ("ttsp", "ttsp", 44.0, late),
            ("ttsnap@preview", "ttsp@preview", 22.0, early),
            ("best", "ttsp@preview", 22.0, early),
            ("best", "ttsnap@preview", 44.0, late),
        )
    ]
    costs = {"denoise": 1.0, "decode": 5.0, "reward": 0.25, "preview": 0.01}
    whole = {"kind": "plan", "steps": 4, "unit": "TFLOPs", "costs": costs}
    return whole | {"plans": plans, "robust": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on tiny models: its plan, its preview, and checkpoints of either look."""
    folder = tmp_path_factory.mktemp("looks")
    tiny_stable_diffusion(folder / "generator")
    tiny_clip(folder / "clip")
    run = folder / "results/tiny"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 1, SIZE, SIZE, 3), dtype=np.uint8)
    data = StepData(images, (0,), ["a", "b"], rng.normal(size=(2, 3)).astype(np.float32))
    narf = Narf(lora=Lora(rank=1), epochs=1)
    out = run / "narf/clip/step_01"
    reward = clip_reward(folder / "clip")
    finetune_step(reward, data, narf, start=None, out=out, seed=0, val_data=data)
    shutil.copytree(out, run / "narf/clip@preview/step_01")
    (run / "plan").mkdir()
    (run / "plan/clip.json").write_text(json.dumps(plan()))
    torch.manual_seed(0)
    LinearPreview(4, 4).save(run / "preview.safetensors")
    settings: dict[str, Any] = {
        "run": "tiny",
        "model": {"path": "generator", "preview": {"kind": "linear"}},
        "sampling": {"steps": 4, "guidance_scale": 1.0, "height": 32, "width": 32},
        "rewards": {"clip": {"path": "clip"}},
        "narf": {"steps": [1]},
        "costs": {**PRICES},
        "judge": None,
    }
    settings["sampling"]["scheduler"] = {"name": "DDIMScheduler"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = load_config("tiny.yaml")
        model = config.model.model_copy(update={"family": "stable-diffusion"})
        (run / SETTINGS).write_text(config.model_copy(update={"model": model}).model_dump_json())
    settings["model"].pop("preview")
    settings["costs"].pop("preview")
    (folder / "decodes.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def search(
    ttsnap: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Search for a circle with the run; gives the exit status."""
    monkeypatch.chdir(folder)

    def command(*arguments: object, config: str = "tiny.yaml") -> int:
        return ttsnap("search", "a circle", "--config", config, "--out", tmp_path, *arguments)

    return command


@pytest.mark.parametrize(
    ("arguments", "look", "verifiers", "nfe", "spent"),
    [
        # Of 4 candidates, or 6, or 2, a half goes on from a check after 1 evaluation, or 2.
        (("--budget", "22"), "preview", {}, 4 + 2 * 3, 4 * 1.26 + 2 * 8.25),
        (
            ("--budget", "44"),
            "preview",
            {"1": ["results/tiny/narf/clip@preview/step_01"]},
            6 * 2 + 3 * 2,
            6 * 2.26 + 3 * 7.25,
        ),
        (("--budget", "22", "--method", "ttsp"), "decode", {}, 2 * 2 + 2, 2 * 7.25 + 7.25),
        (("--budget", "22", "--no-narf"), "decode", {}, 2 * 2 + 2, 2 * 7.25 + 7.25),
        (
            ("--budget", "22", "--schedule", "1:0.5"),
            "decode",
            {"1": ["results/tiny/narf/clip/step_01"]},
            2 * 2 + 2,
            2 * 7.25 + 7.25,
        ),
    ],
)
def test_checks_look_as_the_plan_says(
    search: Command,
    tmp_path: Path,
    arguments: tuple[str, ...],
    look: str,
    verifiers: dict[str, list[str]],
    nfe: int,
    spent: float,
) -> None:
    given = arguments if "--method" in arguments else (*arguments, "--method", "ttsnap")
    assert search(*given) == 0
    settings = json.loads((tmp_path / "config.json").read_text())
    assert (settings["look"], settings["verifiers"]) == (look, verifiers)
    assert settings["prices"]["preview"] == (0.01 if look == "preview" else None)
    (trace,) = tmp_path.glob("*/trace.jsonl")
    last = json.loads(trace.read_text().splitlines()[-1])
    assert (last["event"], last["nfe"]) == ("winner", nfe)
    assert last["spent"] == pytest.approx(spent)


@pytest.fixture
def preview(folder: Path) -> Iterator[Path]:
    """The run's preview, put back afterwards."""
    path = folder / "results/tiny/preview.safetensors"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(("channels", "scale"), [(16, 4), (4, 8)])
def test_a_preview_of_another_model_is_refused(
    search: Command,
    preview: Path,
    capsys: pytest.CaptureFixture[str],
    channels: int,
    scale: int,
) -> None:
    LinearPreview(channels, scale).save(preview)
    assert search("--budget", "22") == 1
    assert (
        f"preview.safetensors: was fitted to latents of {channels} channels, 1/{scale} of the "
        "pixels, the model has latents of 4 channels, 1/4 of the pixels"
    ) in refusal(capsys)


def test_a_plan_whose_preview_is_gone(
    search: Command, preview: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preview.unlink()
    assert search("--budget", "22") == 1
    assert "preview.safetensors: no linear preview here" in refusal(capsys)


def test_a_plan_for_previews_wants_a_model_with_them(
    search: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--budget", "22", config="decodes.yaml") == 1
    assert "plan: runs ttsp@preview, for which the model lacks preview: {kind:" in refusal(capsys)


@pytest.mark.parametrize("method", ["best-of-n", "ttsp"])
def test_the_plan_chooses_the_look_and_no_name_of_a_method(
    search: Command, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    assert search("--method", f"{method}@preview") == 1
    assert f"method {method}@preview: unknown; " in refusal(capsys)
