"""Wan 2.1: a transformer over latents of videos that predicts the flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.families.video import VideoSampler
from ttsnap.diffusion.state import Conditioning
from ttsnap.errors import UserError

TOKENS = 512
"""Length to which the pipeline pads and cuts the text."""


class WanSampler(VideoSampler):
    """Drives a stock ``WanPipeline`` with a single transformer, as Wan 2.1 has it."""

    pipeline_class = "WanPipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE
    frame_rate = 16.0

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        if pipe.config.boundary_ratio is not None or pipe.config.expand_timesteps:
            raise UserError("model.path: Wan 2.2, which is another model; expected Wan 2.1")
        super().__init__(pipe, sampling)

    @property
    def scale_factor(self) -> int:
        return self.pipe.vae_scale_factor_spatial

    @property
    def frame_factor(self) -> int:
        return self.pipe.vae_scale_factor_temporal

    @property
    def size_multiple(self) -> int:
        return math.lcm(16, self.scale_factor * self.denoiser.config.patch_size[1])

    @property
    def text_limit(self) -> tuple[Any, int] | None:
        return self.pipe.tokenizer, TOKENS

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt`` and ``negative``, each (P, L, D)."""
        prompt, negative = self.pipe.encode_prompt(
            texts,
            negatives,
            self.guided,
            max_sequence_length=TOKENS,
            device=self.device,
            dtype=self.denoiser.dtype,
        )
        return {"prompt": prompt, "negative": negative}

    @torch.inference_mode()
    def denoise(
        self, model_input: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One denoiser evaluation, in two passes under guidance, since videos are large."""
        tensors = conditioning.tensors
        positive = self.predict(model_input, timestep, tensors)
        if not self.guided:
            return positive
        negative = self.predict(model_input, timestep, {"prompt": tensors["negative"]})
        return negative + self.guidance_scale * (positive - negative)

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return self.denoiser(
            hidden_states=model_input.to(self.denoiser.dtype),
            timestep=timestep.expand(len(model_input)),
            encoder_hidden_states=prompts["prompt"],
            return_dict=False,
        )[0]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        settings = self.pipe.vae.config
        mean, std = (
            torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1).to(latents.dtype)
            for values in (settings.latents_mean, settings.latents_std)
        )
        return latents / (1 / std) + mean
