"""What the wheel brings, and that it works in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

CAPTION = "a small red circle left of a large blue ring on a gray background"


def run(installed: Path, folder: Path, *arguments: object) -> str:
    """What a Python of the installed package prints, in a folder."""
    done = subprocess.run(
        [sys.executable, "-P", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_whole(installed: Path, tmp_path: Path) -> None:
    package = installed / "ttsnap"
    for name in (
        "py.typed",
        "rewards/judges/rubric.yaml",
        "plans/default.json",
        "report/page.html",
    ):
        assert (package / name).is_file()
    for part in ("generator/unet", "generator/vae", "generator/text_encoder", "clip"):
        assert any((package / "shapes/weights" / part).glob("*.safetensors"))
    place = "import ttsnap; print(ttsnap.__file__)"
    assert run(installed, tmp_path, "-c", place).strip() == str(package / "__init__.py")
    assert run(installed, tmp_path, "-m", "ttsnap", "--version").startswith("ttsnap ")
    plans = json.loads(run(installed, tmp_path, "-m", "ttsnap", "plans", "--json"))
    assert "default" in {plan["name"] for plan in plans}
    beam = json.loads(run(installed, tmp_path, "-m", "ttsnap", "methods", "beam", "--json"))
    assert beam["options"]["beams"]["default"] == 2


@pytest.mark.slow
def test_the_shapes_world(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, tmp_path, "-m", "ttsnap", "search", CAPTION)
    assert "schedule 4:0.75,6:0.67: default schedule" in shown
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"model": {"path": "ttsnap/shapes/weights/generator"}})
    )
    config = ("--config", "mine.yaml", "--method", "best-of-n")
    run(installed, tmp_path, "-m", "ttsnap", "search", CAPTION, *config)
    assert len(list(tmp_path.glob("results/shapes/live/*/*/best.png"))) == 2


@pytest.mark.slow
def test_a_notebook(installed: Path, tmp_path: Path) -> None:
    lines = [
        "from diffusers import StableDiffusionPipeline",
        "from ttsnap import save, search",
        "from ttsnap.shapes import CLIP, GENERATOR",
        "pipe = StableDiffusionPipeline.from_pretrained(GENERATOR)",
        f"found = search(pipe, [{CAPTION!r}] * 2, reward=f'clip:{{CLIP}}', num_inference_steps=12,",
        "               guidance_scale=1.5, budget='100nfe')",
        "save(found[0], 'found')",
        "found[1].pil.save('x.png')",
    ]
    run(installed, tmp_path, "-c", "\n".join(lines))
    assert (tmp_path / "x.png").is_file()
    assert (tmp_path / "found/contact.png").is_file()


@pytest.mark.slow
def test_simulating(installed: Path, tmp_path: Path) -> None:
    final = np.random.default_rng(0).normal(size=(12, 16, 1))
    noise = np.random.default_rng(1).normal(size=(12, 16, 6))
    rewards = (final + noise * np.linspace(2, 0, 6)).astype(np.float32)
    np.savez(tmp_path / "tensors.npz", my_base=rewards)
    prices = ("--denoise", "1", "--verify", "0.1", "--budgets", "12:60:12")
    run(installed, tmp_path, "-m", "ttsnap", "simulate", "tensors.npz", *prices, "--out", "found")
    assert (tmp_path / "found/plan.json").is_file()
