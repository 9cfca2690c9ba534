"""Wan 2.1 and 2.2: one transformer, or two in turn, over latents of videos, for the flow."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.families.video import VideoSampler, unstandardized
from ttsnap.diffusion.stages import StagedSampler
from ttsnap.errors import UserError

TOKENS = 512
"""Length to which the pipeline pads and cuts the text."""


class WanSampler(StagedSampler, VideoSampler):
    """Drives a stock ``WanPipeline``.

    That of Wan 2.2 14B has two transformers. They share a trajectory: ``transformer`` denoises down
    to the timestep of the pipeline's ``boundary_ratio``, and ``transformer_2`` what is below, with
    a guidance scale of its own. That of Wan 2.2 5B tells its transformer the time of every token,
    and its videos have 24 frames a second.
    """

    pipeline_class = "WanPipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE
    frame_rate = 16.0
    apart = True

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        ratio = pipe.config.boundary_ratio
        if ratio is not None:
            self.boundary = ratio * pipe.scheduler.config.num_train_timesteps
            self.guidance_options = ("guidance_scale_2",)
        if pipe.config.expand_timesteps:
            self.frame_rate = 24.0
        super().__init__(pipe, sampling)

    def below(self) -> Self:
        second = copy.copy(self.pipe)
        vars(second)["transformer"] = self.pipe.transformer_2
        scale = self.sampling.guidance_options.get("guidance_scale_2", self.guidance_scale)
        return self.changed(pipe=second, guidance_scale=scale)

    def couple(self) -> None:
        super().couple()
        if self.negtome is not None and self.negtome.t_end < (self.boundary or 0):
            raise UserError(
                "sampling.negtome.t_end: NegToMe acts in the first transformer only, so not below "
                f"{self.boundary:g}"
            )

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

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        times = timestep.expand(len(model_input))
        if self.pipe.config.expand_timesteps:
            tokens = math.prod(model_input.shape[2:]) // 4
            times = times.float().unsqueeze(1).expand(-1, tokens)
        return self.denoiser(
            hidden_states=model_input.to(self.denoiser.dtype),
            timestep=times,
            encoder_hidden_states=prompts["prompt"],
            return_dict=False,
        )[0]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        return unstandardized(latents, self.pipe.vae.config)
