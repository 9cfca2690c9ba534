"""The training script, and the generator that ships with the repository."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ttsnap.shapes import oracle, renderings, train_generator, world
from ttsnap.shapes.tokenizer import MAX_LENGTH, build_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import StableDiffusionPipeline

WEIGHTS = Path("ttsnap/shapes/weights")
GENERATOR = WEIGHTS / "generator"
STEPS = 12


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(GENERATOR)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline, captions: list[str]) -> world.Images:
    images = pipeline(
        captions,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(captions))],
        output_type="np",
    ).images
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize("scheduler", ["DDIM", "EulerDiscrete", "DPMSolverMultistep"])
def test_pictures_show_their_captions(pipeline: StableDiffusionPipeline, scheduler: str) -> None:
    import diffusers

    kind = getattr(diffusers, f"{scheduler}Scheduler")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    captions = world.held_out_captions(6000, seed=0)[-64:]
    table = oracle.judge(draw(pipeline, captions), captions)
    # The measured share is about .2 with guidance; 64 pictures tell it to about .1.
    assert 0.03 <= table.satisfied.mean() <= 0.5
    assert table.background.mean() >= 0.9


def test_the_autoencoder_restores_renderings(pipeline: StableDiffusionPipeline) -> None:
    rng = np.random.default_rng(0)
    scenes = [world.sample_scene(rng) for _ in range(64)]
    pixels = renderings.to_pixels(world.render(scenes, rng))
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latents
        restored = pipeline.vae.decode(latents).sample
    scaled = latents * pipeline.vae.config.scaling_factor
    assert 0.9 < scaled.std() < 1.1
    images = ((restored + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    captions = [scene.caption for scene in scenes]
    assert oracle.judge(images, captions).satisfied.mean() >= 0.9


def test_a_decode_costs_less_than_a_third_of_a_denoiser_evaluation(
    pipeline: StableDiffusionPipeline,
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    latents, context = torch.zeros(1, 4, 8, 8), torch.zeros(1, MAX_LENGTH, 128)
    with torch.no_grad():
        with FlopCounterMode(display=False) as denoise:
            pipeline.unet(latents, 0, context)
        with FlopCounterMode(display=False) as decode:
            pipeline.vae.decode(latents)
    assert decode.get_total_flops() <= 0.3 * denoise.get_total_flops()


def test_the_card_names_every_weight_file_and_its_hash() -> None:
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`(generator/\S+\.safetensors)`[^`]*`([0-9a-f]{64})`", card))
    files = sorted(GENERATOR.rglob("*.safetensors"))
    assert named == {
        path.relative_to(WEIGHTS).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_weights_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 30e6


def test_every_word_is_one_token() -> None:
    tokenizer = build_tokenizer()
    for caption in world.held_out_captions(300, seed=1):
        words = caption.split()
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(words) + 2 <= MAX_LENGTH
        assert tokenizer.convert_ids_to_tokens(ids[1:-1]) == [f"{word}</w>" for word in words]


@pytest.mark.parametrize("text", ["", "🎈 naïve\n中文 \x00", "x" * 1000, "a red, 'quoted' / thing"])
def test_any_text_is_tokenised(text: str) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer(text, truncation=True).input_ids
    assert len(ids) <= MAX_LENGTH
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1


SIZES = {"steps": 4, "autoencoder_steps": 3, "count": 100}


@pytest.fixture(scope="module")
def small() -> Iterator[pytest.MonkeyPatch]:
    """Batches of four pictures, a checkpoint every other step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_generator, "BATCH", 4)
        patch.setattr(train_generator, "CHECKPOINT_EVERY", 2)
        yield patch


@pytest.fixture(scope="module")
def trained(small: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_generator.train(folder, **SIZES)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("stopped", ["denoiser, phase 1", "denoiser, phase 3"])
def test_training_goes_on_where_it_was_stopped(
    stopped: str, trained: Path, small: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(what: str, step: int, steps: int, loss: torch.Tensor) -> None:
        if (what, step) == (stopped, 3):
            raise KeyboardInterrupt

    with small.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(train_generator, "log", lambda: stop)
        train_generator.train(tmp_path, **SIZES)
    assert (tmp_path / "training" / "denoiser.pt").exists()
    train_generator.train(tmp_path, **SIZES)
    assert hashes(tmp_path) == hashes(trained)


def test_what_is_trained_loads_in_single_precision(trained: Path) -> None:
    from diffusers import StableDiffusionPipeline

    assert {path.name for path in trained.iterdir()} == {path.name for path in GENERATOR.iterdir()}
    pipeline = StableDiffusionPipeline.from_pretrained(trained)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert part.dtype == torch.float32
    pipeline.scheduler.set_timesteps(STEPS)
    assert pipeline.scheduler.timesteps[0] == 999
