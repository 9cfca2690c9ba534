"""Driving a sampler of any family, and the call of its pipeline to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler, State

TEXTS, NEGATIVES = ["red", 'blue 😀 "/\n'], ["dull", "e"]
STEPS = 5


FRAMES = 5


def frames_of(pipe: Any) -> int:
    return FRAMES if hasattr(pipe, "video_processor") else 1


def sampling_of(
    pipe: Any, guidance_scale=4.0, steps=STEPS, name=None, size=32, frames=None, **options
) -> Sampling:
    """Settings with the pipeline's own scheduler, or another."""
    own = type(pipe.scheduler).__name__
    if own == "EDMEulerScheduler":
        own, guidance_scale = "EDMHeunScheduler", 1.0
    return Sampling(
        steps=steps,
        guidance_scale=guidance_scale,
        height=size,
        width=32,
        frames=frames or frames_of(pipe),
        scheduler=Scheduler(name=name or own, options=options),
    )


def make(pipe: Any, *arguments, **options) -> Sampler:
    """A sampler with the settings of :func:`sampling_of`."""
    return from_pipeline(pipe, sampling_of(pipe, *arguments, **options))


def begin(sampler: Sampler, seeds=(1, 2, 3)) -> State:
    return sampler.start(sampler.encode(TEXTS, NEGATIVES), seeds, [seed % 2 for seed in seeds])


def noise_of(sampler: Sampler, step: int, seed: int = 5) -> torch.Tensor | None:
    """What a step adds, the same to every candidate, if it adds noise: draws in turn of a seed."""
    if not sampler.stochastic:
        return None
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(1, *sampler.latent_shape, generator=generator) for _ in range(step + 1)]
    return drawn[-1]


def advance(sampler: Sampler, state: State) -> tuple[State, torch.Tensor]:
    """A step with :func:`noise_of` it."""
    noise = noise_of(sampler, state.index)
    return sampler.step(state, None if noise is None else noise.expand_as(state.latents))


def finish(sampler: Sampler, state: State) -> tuple[State, list[torch.Tensor]]:
    estimates = []
    while not state.done:
        state, estimate = advance(sampler, state)
        estimates.append(estimate)
    return state, estimates


def images_of(sampler: Sampler, negatives=NEGATIVES) -> np.ndarray:
    final, _ = finish(sampler, sampler.start(sampler.encode(TEXTS, negatives), [1, 2]))
    return sampler.decode(final.latents)


def call(pipe: Any, scheduler: Any = None, negatives: Any = NEGATIVES, **arguments) -> np.ndarray:
    """What the pipeline's own call makes of the prompts, as uint8."""
    arguments = {"guidance_scale": 4.0, "num_inference_steps": STEPS, "height": 32} | arguments
    if type(pipe).__name__ == "Flux2KleinPipeline":  # its own are empty
        arguments["negative_prompt_embeds"] = pipe.encode_prompt([*negatives])[0]
    elif type(pipe).__name__ == "SanaSprintPipeline":
        if arguments["num_inference_steps"] != 2:
            arguments["intermediate_timesteps"] = None
        arguments.setdefault("generator", [torch.Generator().manual_seed(5) for _ in TEXTS])
    elif "Flux" not in type(pipe).__name__:
        arguments["negative_prompt"] = negatives and [*negatives]
    if type(pipe).__name__ in ("PixArtSigmaPipeline", "SanaPipeline", "SanaSprintPipeline"):
        arguments |= {"clean_caption": False, "use_resolution_binning": False}
    if type(pipe).__name__ == "QwenImagePipeline":
        arguments["true_cfg_scale"] = arguments.pop("guidance_scale")
    if hasattr(pipe, "video_processor"):
        arguments["num_frames"] = FRAMES
    before = pipe.scheduler
    pipe.scheduler = scheduler or type(before).from_config(before.config)
    try:
        images = pipe(prompt=[*TEXTS], width=32, output_type="np", **arguments)[0]
    finally:
        pipe.scheduler = before
    return (images * 255).round().astype(np.uint8)


def with_little_memory(sampler: Sampler, patch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Let a sampler run out of memory above 2 rows of an evaluation, and above 1 of a decode.

    Returns:
        The rows that were tried at once, by what was tried.
    """
    tried: dict[str, list[int]] = {}
    for name, most in (("evaluate", 2), ("decode", 1)):

        def limited(
            batch: Any, name: str = name, most: int = most, run: Any = getattr(sampler, name)
        ) -> Any:
            rows = batch.running if name == "evaluate" else len(batch)
            tried.setdefault(name, []).append(rows)
            if rows > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return run(batch)

        patch.setattr(sampler, name, limited)
    return tried


def tiny_previewer(sampler: Sampler) -> AutoencoderTiny:
    """A preview decoder for the latents of a sampler."""
    return AutoencoderTiny(
        latent_channels=sampler.pipe.vae.config.latent_channels,
        encoder_block_out_channels=(8,) * 3,
        decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1,) * 3,
        num_decoder_blocks=(1,) * 3,
    ).eval()
