"""The installed package on a model of one's own, in an empty folder, told nothing but a reward."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_families import tiny
from ttsnap.diffusion import SAMPLERS, VIDEOS, from_pipeline
from ttsnap.diffusion.families.edm import EDMPipeline

PROMPT = {"edm": "red"}
SIZE = {"edm": 32, "flux": 512, "ltx": 32, "wan": 32}
"""Pixels; of the others 64, 16 latents of 4 pixels, where the embedded world has 32."""

OTHERS = sorted(SAMPLERS.keys() - {"sdxl"})


def saved(family: str, folder: Path) -> Any:
    """A tiny model in a folder, and its pipeline as diffusers loads it from there."""
    pipe = tiny(family)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if family not in SIZE:
        denoiser.register_to_config(sample_size=16)
    pipe.save_pretrained(folder)
    kind = EDMPipeline if family == "edm" else getattr(diffusers, SAMPLERS[family].pipeline)
    pipe = kind.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def search(installed: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``ttsnap search`` of the installed package, on the CPU and offline, in an empty folder."""
    folder.mkdir()
    return subprocess.run(
        [sys.executable, "-P", "-m", "ttsnap", "search", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "family", ["sdxl", *(pytest.param(family, marks=pytest.mark.slow) for family in OTHERS)]
)
def test_the_model_decides(installed: Path, family: str, tmp_path: Path) -> None:
    pipe = saved(family, tmp_path / "model")
    prompt, size = PROMPT.get(family, "a red circle"), SIZE.get(family, 64)
    arguments: list[object] = [prompt, "--model", tmp_path / "model", "--reward", "brightness"]
    if family in VIDEOS:  # at their own size they would take hours here
        arguments += ["--height", size, "--width", size]
    done = search(installed, tmp_path / "empty", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    (found,) = (tmp_path / "empty/results/search").iterdir()
    record = json.loads((found / "config.json").read_text())
    call = {}
    if family != "edm":
        call = {
            name: one.default for name, one in inspect.signature(pipe.__call__).parameters.items()
        }
    sampling = record["sampling"]
    assert sampling["steps"] == call.get("num_inference_steps", 35)
    assert sampling["guidance_scale"] == call.get("guidance_scale", 1)
    assert (sampling["height"], sampling["width"]) == (size, size)
    assert sampling["frames"] == call.get("num_frames", 1)
    own = "EDMHeunScheduler" if family == "edm" else type(pipe.scheduler).__name__
    assert sampling["scheduler"] == {"name": own, "options": {}}
    assert sampling["negtome"] is None
    assert (record["method"], record["model"]["family"]) == ("ttsp", family)
    assert record["model"]["dtype"] == "float32"
    assert f"{family}, {size} x {size} pixels" in done.stdout
    assert "schedule" in done.stdout

    (one,) = (path for path in found.iterdir() if path.is_dir())
    trace = [json.loads(line) for line in (one / "trace.jsonl").read_text().splitlines()]
    assert trace[-1]["event"] == "winner"
    image = np.asarray(Image.open(one / "best.png")).astype(int)
    expected = by_hand(pipe, family, prompt, size, trace[-1]["seed"])
    assert image.std() > 1
    assert np.abs(image - expected).max() <= 1  # batches of other sizes add up in another order


def by_hand(pipe: Any, family: str, prompt: str, size: int, seed: int) -> np.ndarray:
    """What the pipeline's own call, told the seed alone, makes of a prompt."""
    if family == "edm":  # which has no call; its sampler is compared with its paper elsewhere
        sampler = from_pipeline(pipe, {})
        state = sampler.start(sampler.encode([prompt], [""]), [seed])
        while not state.done:
            state, _ = sampler.step(state)
        return sampler.decode(state.latents)[0].astype(int)
    told: dict[str, Any] = {}
    if family in ("pixart-sigma", "sana"):
        told = {"use_resolution_binning": False, "clean_caption": False}
    if family in ("sana", *VIDEOS):  # whose call does not ask the model for its size
        told |= {"height": size, "width": size}
    generator = torch.Generator().manual_seed(seed)
    made = pipe(prompt, generator=generator, output_type="np", **told)[0][0]
    frame = made[len(made) // 2] if family in VIDEOS else made
    return (frame * 255).round().astype(int)
