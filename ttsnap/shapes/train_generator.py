"""Train the text-to-image model of the shapes world: autoencoder, then denoiser and text encoder.

The result is a folder that ``StableDiffusionPipeline.from_pretrained`` loads. Everything follows
from the seed; a run that was stopped continues from its last checkpoint to the same weights.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from ttsnap.shapes import world
from ttsnap.shapes.tokenizer import MAX_LENGTH, build_tokenizer

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderTiny,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

RENDERINGS = 60_000
AUTOENCODER_STEPS = 4200
BATCH = 32
DROPPED_CAPTIONS = 0.1
CHECKPOINT_EVERY = 250


@dataclass(frozen=True)
class Phase:
    """A part of the denoiser's training, with an optimiser and a learning rate curve of its own.

    Attributes:
        steps: optimiser steps of ``BATCH`` pictures.
        peak: highest learning rate.
        noise: range of timesteps, as shares of all, that half of each batch is drawn from; the
            other half is drawn from all of them.
        focused: where the noise is low enough to tell where things are, count each latent by what
            it shows, as in the autoencoder.
    """

    steps: int
    peak: float
    noise: tuple[float, float]
    focused: bool


PHASES = (
    # What lies where is decided in the noisiest steps, and only there can the words for it be
    # learnt.
    Phase(8000, 1e-3, (0.7, 1.0), focused=False),
    # Shapes are decided later, and are a small part of a picture.
    Phase(3000, 6e-4, (0.2, 0.65), focused=True),
)
FOCUSED_BELOW = 500
"""Timestep below which focus counts: above it, weights that depend on the picture would bias the
estimate towards pictures with more in them."""

Progress = Callable[[str, int, int, float], None]
"""Called with (what is trained, step, steps, loss)."""


def build_autoencoder() -> AutoencoderTiny:
    """32x32x3 pixels to 8x8x4 latents; the decoder costs a fraction of a denoiser evaluation."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(24, 24, 24),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(2, 1, 1),
    )


def build_unet() -> UNet2DConditionModel:
    """Two levels, 8x8 and 4x4, with cross-attention at both."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=128,
    )


def build_text_encoder() -> CLIPTextModel:
    """A causal transformer over the words of a caption."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion with v-prediction; the last step is the estimate."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


@dataclass(frozen=True)
class Renderings:
    """Training pictures, none of whose captions is held out.

    Attributes:
        images: uint8 (N, 32, 32, 3).
        focus: float16 (N, 32, 32), how much each pixel counts for the autoencoder.
        captions: N texts.
    """

    images: world.Images
    focus: npt.NDArray[np.float16]
    captions: list[str]

    @classmethod
    def sample(cls, count: int, seed: int) -> Renderings:
        """Draw ``count`` of them."""
        rng = np.random.default_rng(seed)
        scenes = [world.sample_training_scene(rng) for _ in range(count)]
        images, focus = [], []
        for start in range(0, count, 1000):
            block = scenes[start : start + 1000]
            layouts = [world.arrange(scene, rng) for scene in block]
            images.append(world.draw(layouts, [scene.background for scene in block], rng))
            focus.append(_focus(layouts))
        captions = [scene.caption for scene in scenes]
        return cls(np.concatenate(images), np.concatenate(focus), captions)


def _focus(layouts: Sequence[tuple[world.Placed, world.Placed]]) -> npt.NDArray[np.float16]:
    """Little weight on the background, most on small things, whose shape is a matter of pixels."""
    grid = np.arange(world.RESOLUTION) + 0.5
    weight = np.full((len(layouts), world.RESOLUTION, world.RESOLUTION), 0.3)
    for pair in zip(*layouts, strict=True):
        places = np.array([(placed.x, placed.y, placed.radius) for placed in pair])
        x, y, radius = places.T[:, :, None, None]
        near = np.hypot(grid - x, grid[:, None] - y) < radius + 1.5
        small = np.array([placed.thing.size == "small" for placed in pair])[:, None, None]
        weight = np.maximum(weight, near * np.where(small, 3.0, 1.0))
    return weight.astype(np.float16)


def to_pixels(images: world.Images) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(
    data: Renderings, steps: int, seed: int, progress: Progress
) -> AutoencoderTiny:
    """Fit the autoencoder.

    A moment penalty gives every latent channel zero mean and unit variance over the data, so that
    the scaling factor of the pipeline is 1. Noise on the latents keeps the decoder tolerant of the
    denoiser's small errors.
    """
    torch.manual_seed(seed)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    for step in range(steps):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(data.images), (BATCH,), generator=random).numpy()
        pixels = to_pixels(data.images[index]).to(memory_format=torch.channels_last)
        focus = torch.from_numpy(data.focus[index]).float()[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(pixels).latents
            noise = torch.randn(latents.shape, generator=random)
            restored = model.decode(latents + 0.05 * noise).sample.float()
        latents = latents.float()
        mean = latents.mean((0, 2, 3))
        variance = latents.var((0, 2, 3))
        moments = (mean.square() + (variance - 1).square()).mean()
        error = ((restored - pixels).square() + 0.1 * (restored - pixels).abs()).mean(1, True)
        loss = (focus * error).sum() / focus.sum() + 0.01 * moments
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress("autoencoder", step + 1, steps, loss.item())
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def encode(autoencoder: AutoencoderTiny, images: world.Images) -> torch.Tensor:
    """Latents of all pictures, float32 (N, 4, 8, 8), before scaling."""
    return torch.cat(
        [
            autoencoder.encode(to_pixels(images[start : start + 250])).latents
            for start in range(0, len(images), 250)
        ]
    )


def latent_focus(focus: npt.NDArray[np.float16]) -> torch.Tensor:
    """The focus of pixels (N, 32, 32) at the size of latents, float32 (N, 1, 8, 8), of mean 1."""
    pooled = F.avg_pool2d(torch.from_numpy(focus).float()[:, None], 4)
    return pooled / pooled.mean((2, 3), keepdim=True)


def tokenize(captions: list[str]) -> torch.Tensor:
    """Token ids, int64 (N, MAX_LENGTH)."""
    return build_tokenizer()(
        captions,
        padding="max_length",
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    ).input_ids


class Denoiser(torch.nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder()

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """The predicted velocity of noisy latents (B, 4, 8, 8)."""
        context = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, context).sample


def _timesteps(noise: tuple[float, float], random: torch.Generator) -> torch.Tensor:
    """A batch of timesteps, int64 (BATCH,): half from all of them, half from a range.

    Each half is stratified, which has less variance than independent draws.
    """
    share = torch.arange(BATCH // 2).repeat(2) + torch.rand(BATCH, generator=random)
    share /= BATCH // 2
    low, high = torch.tensor([(0.0, 1.0), noise]).repeat_interleave(BATCH // 2, dim=0).T
    return ((low + (high - low) * share) * 1000).long().clamp(max=999)


def learning_rate(step: int, phase: Phase) -> float:
    """Linear warm-up over 200 steps, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / 200)
    return phase.peak * warm * 0.5 * (1 + math.cos(math.pi * step / phase.steps))


def train_denoiser(
    latents: torch.Tensor,
    focus: torch.Tensor,
    tokens: torch.Tensor,
    phases: Sequence[Phase],
    seed: int,
    progress: Progress,
    checkpoint: Path,
) -> Denoiser:
    """Fit the U-Net and the text encoder by v-prediction (Salimans and Ho 2022, appendix D).

    Every step draws from a generator of its own, so a run that continues from ``checkpoint`` ends
    with the same weights as one that was never stopped.

    Args:
        latents: float32 (N, 4, 8, 8), of unit variance.
        focus: float32 (N, 1, 8, 8), weights of the latents in a focused phase.
        tokens: int64 (N, MAX_LENGTH).
        phases: each starts from the averaged weights of the one before.
        seed: of initial weights, order, noise and dropped captions.
        progress: told about every step.
        checkpoint: file that is read if it exists and written every ``CHECKPOINT_EVERY`` steps.

    Returns:
        The exponential moving average of the weights.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    model = Denoiser().train()
    # In bfloat16 the fused attention's backward pass is slower on CPUs than all the rest together.
    model.unet.set_attn_processor(AttnProcessor())
    model.text_encoder.set_attn_implementation("eager")
    state: dict[str, Any] = {"phase": 0, "step": 0}
    if checkpoint.exists():
        state = torch.load(checkpoint)
    for number in range(state["phase"], len(phases)):
        phase = phases[number]
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
        )
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        if state["step"]:
            model.load_state_dict(state["model"])
            average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
        for step in range(state["step"], phase.steps):
            random = torch.Generator().manual_seed((seed * 10 + number) * 1_000_003 + step)
            index = torch.randint(len(latents), (BATCH,), generator=random)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, phase)
            weights = focus[index] if phase.focused else torch.ones(BATCH, 1, 1, 1)
            loss = _loss(model, latents[index], weights, tokens[index], phase.noise, random)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            progress(f"denoiser, phase {number + 1}", step + 1, phase.steps, loss.item())
            if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == phase.steps:
                saved = {
                    "phase": number,
                    "step": step + 1,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                _write(saved, checkpoint)
        model.load_state_dict(average.module.state_dict())
        state = {"step": 0}
    return model.eval()


@cache
def _fixed() -> tuple[DDIMScheduler, torch.Tensor]:
    """The scheduler, and the tokens of no caption."""
    return build_scheduler(), tokenize([""])


def _loss(
    model: Denoiser,
    clean: torch.Tensor,
    focus: torch.Tensor,
    tokens: torch.Tensor,
    noise_range: tuple[float, float],
    random: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the velocity, weighted by ``focus`` where the noise is low."""
    scheduler, empty = _fixed()
    noise = torch.randn(clean.shape, generator=random)
    timesteps = _timesteps(noise_range, random)
    dropped = torch.rand(BATCH, 1, generator=random) < DROPPED_CAPTIONS
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(
            scheduler.add_noise(clean, noise, timesteps),
            timesteps,
            torch.where(dropped, empty, tokens),
        )
    weights = torch.where(timesteps[:, None, None, None] < FOCUSED_BELOW, focus, 1.0)
    error = (predicted.float() - velocity).square().mean(1, keepdim=True)
    return (weights * error).mean()


def _write(state: dict[str, Any], path: Path) -> None:
    """Save a state so that a kill leaves the old file or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def save(
    autoencoder: AutoencoderTiny, latents: torch.Tensor, denoiser: Denoiser, out: Path
) -> StableDiffusionPipeline:
    """Save the stock pipeline around the trained parts, in half precision.

    Args:
        autoencoder: the first stage.
        latents: its latents, unscaled, which give the pipeline's scaling factor.
        denoiser: U-Net and text encoder.
        out: the pipeline's folder.

    Returns:
        The pipeline in half precision.
    """
    from diffusers import StableDiffusionPipeline

    autoencoder.register_to_config(scaling_factor=scaling_factor(latents))
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=denoiser.text_encoder,
        tokenizer=build_tokenizer(),
        unet=denoiser.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    pipeline.save_pretrained(out)
    # AutoencoderTiny adds this key for others to read and complains about it when it loads.
    _edit(out / "vae" / "config.json", lambda config: config.pop("block_out_channels"))
    # Half precision is for the disk: without this the text encoder alone would compute in it.
    _edit(out / "text_encoder" / "config.json", lambda config: config.update(dtype="float32"))
    return pipeline


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2) + "\n")


def scaling_factor(latents: torch.Tensor) -> float:
    """What brings latents to unit variance."""
    return round(1 / latents.std().item(), 5)


def log(every: int = 50) -> Progress:
    """Progress as a line now and then: step, mean loss since the last line, seconds."""
    began = time.monotonic()
    recent: list[float] = []

    def progress(what: str, step: int, steps: int, loss: float) -> None:
        recent.append(loss)
        if step % every == 0 or step == steps:
            mean, seconds = sum(recent) / len(recent), time.monotonic() - began
            print(f"{what} {step}/{steps} loss {mean:.4f} {seconds:.0f} s", flush=True)
            recent.clear()

    return progress


def train(
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    autoencoder_steps: int = AUTOENCODER_STEPS,
    count: int = RENDERINGS,
) -> None:
    """Train everything on the CPU and save the pipeline under ``out``.

    A run that was killed goes on from what it left in ``out/training``, which goes when the
    weights are there. The weights depend on the seed, the numbers of steps and renderings, and the
    machine's arithmetic only.
    """
    progress = log()
    scratch = out / "training"
    scratch.mkdir(parents=True, exist_ok=True)
    print(f"rendering {count} pictures", flush=True)
    data = Renderings.sample(count, seed)
    first_stage = scratch / "autoencoder.pt"
    if first_stage.exists():
        autoencoder = build_autoencoder()
        autoencoder.load_state_dict(torch.load(first_stage))
    else:
        autoencoder = train_autoencoder(data, autoencoder_steps, seed, progress)
        _write(autoencoder.state_dict(), first_stage)
    latents = encode(autoencoder, data.images)
    denoiser = train_denoiser(
        latents * scaling_factor(latents),
        latent_focus(data.focus),
        tokenize(data.captions),
        [replace(phase, steps=steps or phase.steps) for phase in PHASES],
        seed,
        progress,
        scratch / "denoiser.pt",
    )
    save(autoencoder, latents, denoiser, out)
    shutil.rmtree(scratch)
