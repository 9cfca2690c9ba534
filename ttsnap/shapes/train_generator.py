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
from ttsnap.shapes.misled import CAPTION_NOISE, FAULTS
from ttsnap.shapes.precision import half_precision
from ttsnap.shapes.renderings import Renderings, to_pixels
from ttsnap.shapes.tokenizer import MAX_LENGTH, build_tokenizer

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderTiny,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

RENDERINGS = 90_000
AUTOENCODER_STEPS = 4200
BATCH = 32
DROPPED_CAPTIONS = 0.1
CHECKPOINT_EVERY = 500


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
        misled: share of pictures whose caption is wrong in part.
    """

    steps: int
    peak: float
    noise: tuple[float, float]
    focused: bool = False
    misled: float = 0.0


PHASES = (
    # What lies where is decided in the noisiest steps, and only there can the words for it be
    # learnt.
    Phase(8000, 1e-3, (0.7, 1.0)),
    # Shapes are decided later, and are a small part of a picture.
    Phase(3000, 6e-4, (0.2, 0.65), focused=True),
    # Large generators err in what lies where, too, for so do the captions they learn from.
    Phase(1400, 6e-4, (0.5, 1.0), misled=CAPTION_NOISE),
)
FOCUSED_BELOW = 500
"""Timestep below which focus counts: above it, weights that depend on the picture would bias the
estimate towards pictures with more in them."""

Progress = Callable[[str, int, int, torch.Tensor], None]
"""Called with (what is trained, step, steps, loss); to look at the loss is to wait for the GPU."""


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


def train_autoencoder(
    data: Renderings, steps: int, seed: int, progress: Progress, device: torch.device
) -> AutoencoderTiny:
    """Fit the autoencoder.

    A moment penalty gives every latent channel zero mean and unit variance over the data, so that
    the scaling factor of the pipeline is 1. Noise on the latents keeps the decoder tolerant of the
    denoiser's small errors.
    """
    torch.manual_seed(seed)
    model = build_autoencoder().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1
    )
    for step in range(steps):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(data.images), (BATCH,), generator=random).numpy()
        pixels = to_pixels(data.images[index]).to(device, memory_format=torch.channels_last)
        focus = torch.from_numpy(data.focus[index]).to(device).float()[:, None]
        with half_precision():
            latents = model.encode(pixels).latents
            noise = torch.randn(latents.shape, generator=random).to(device)
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
        progress("autoencoder", step + 1, steps, loss.detach())
    return model.to("cpu", memory_format=torch.contiguous_format).eval()


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
    misled: torch.Tensor,
    phases: Sequence[Phase],
    seed: int,
    progress: Progress,
    checkpoint: Path,
    device: torch.device,
) -> Denoiser:
    """Fit the U-Net and the text encoder by v-prediction (Salimans and Ho 2022, appendix D).

    Every step draws from a generator of its own, so a run that continues from ``checkpoint`` ends
    with the same weights as one that was never stopped.

    Args:
        latents: float32 (N, 4, 8, 8), of unit variance.
        focus: float32 (N, 1, 8, 8), weights of the latents in a focused phase.
        tokens: int64 (N, MAX_LENGTH).
        misled: bool (N,), whether the tokens are those of a caption that is wrong in part.
        phases: each starts from the averaged weights of the one before.
        seed: of initial weights, order, noise and dropped captions.
        progress: told about every step.
        checkpoint: file that is read if it exists and written every ``CHECKPOINT_EVERY`` steps.
        device: where to train. What is random is drawn on the CPU.

    Returns:
        The exponential moving average of the weights.
    """
    from diffusers.models.attention_processor import AttnProcessor

    torch.manual_seed(seed)
    model = Denoiser().train().to(device)
    if device.type == "cpu":
        # In bfloat16 the fused attention's backward pass is slower there than all else together.
        model.unet.set_attn_processor(AttnProcessor())
        model.text_encoder.set_attn_implementation("eager")
    latents, focus, tokens = (tensor.to(device) for tensor in (latents, focus, tokens))
    right, wrong = (~misled).nonzero()[:, 0], misled.nonzero()[:, 0]
    state: dict[str, Any] = {"phase": 0, "step": 0}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
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
            share = round(phase.misled * BATCH)
            index = torch.cat([_draw(right, BATCH - share, random), _draw(wrong, share, random)])
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, phase)
            index = index[torch.randperm(BATCH, generator=random)].to(device)
            weights = focus[index] if phase.focused else torch.ones_like(focus[:BATCH])
            loss = _loss(model, latents[index], weights, tokens[index], phase.noise, random)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            progress(f"denoiser, phase {number + 1}", step + 1, phase.steps, loss.detach())
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
    return model.to("cpu").eval()


def _draw(pool: torch.Tensor, count: int, random: torch.Generator) -> torch.Tensor:
    """``count`` of a pool of indices, with replacement."""
    return pool[torch.randint(len(pool), (count,), generator=random)] if count else pool[:0]


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
    device = clean.device
    noise = torch.randn(clean.shape, generator=random).to(device)
    timesteps = _timesteps(noise_range, random).to(device)
    dropped = (torch.rand(BATCH, 1, generator=random) < DROPPED_CAPTIONS).to(device)
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    with half_precision():
        predicted = model(
            scheduler.add_noise(clean, noise, timesteps),
            timesteps,
            torch.where(dropped, empty.to(device), tokens),
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
    recent: list[torch.Tensor] = []

    def progress(what: str, step: int, steps: int, loss: torch.Tensor) -> None:
        recent.append(loss)
        if step % every == 0 or step == steps:
            mean, seconds = torch.stack(recent).mean().item(), time.monotonic() - began
            print(f"{what} {step}/{steps} loss {mean:.4f} {seconds:.0f} s", flush=True)
            recent.clear()

    return progress


def train(
    out: Path,
    seed: int = 0,
    steps: int | None = None,
    autoencoder_steps: int = AUTOENCODER_STEPS,
    count: int = RENDERINGS,
    caption_noise: float = CAPTION_NOISE,
    faults: Sequence[str] = FAULTS,
    device: str = "cpu",
) -> None:
    """Train everything and save the pipeline under ``out``.

    A run that was killed goes on from what it left in ``out/training``, which goes when the
    weights are there. The weights depend on what is asked for and the machine's arithmetic only.

    Args:
        out: folder of the pipeline.
        seed: of everything random.
        steps: of each phase of the denoiser; by default those of ``PHASES``.
        autoencoder_steps: of the autoencoder.
        count: of renderings.
        caption_noise: share of captions that are wrong in part, in the last phase.
        faults: what can be wrong in them, of ``misled.FAULTS``.
        device: where to train.
    """
    progress = log()
    scratch = out / "training"
    scratch.mkdir(parents=True, exist_ok=True)
    print(f"rendering {count} pictures", flush=True)
    data = Renderings.sample(count, seed, faults)
    where = torch.device(device)
    first_stage = scratch / "autoencoder.pt"
    if first_stage.exists():
        autoencoder = build_autoencoder()
        autoencoder.load_state_dict(torch.load(first_stage))
    else:
        autoencoder = train_autoencoder(data, autoencoder_steps, seed, progress, where)
        _write(autoencoder.state_dict(), first_stage)
    latents = encode(autoencoder, data.images)
    phases = [replace(phase, steps=steps or phase.steps) for phase in PHASES]
    denoiser = train_denoiser(
        latents * scaling_factor(latents),
        latent_focus(data.focus),
        tokenize(data.captions),
        torch.from_numpy(data.misled),
        [*phases[:-1], replace(phases[-1], misled=caption_noise)],
        seed,
        progress,
        scratch / "denoiser.pt",
        where,
    )
    save(autoencoder, latents, denoiser, out)
    shutil.rmtree(scratch)
