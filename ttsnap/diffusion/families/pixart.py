"""PixArt-Σ: a transformer that predicts the noise, and its variance, which is not used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from ttsnap.diffusion import schedulers
from ttsnap.diffusion.sampler import MASKED, Sampler

TOKENS = 300
"""Length to which the pipeline pads and cuts the text."""


class PixArtSigmaSampler(Sampler):
    """Drives a stock ``PixArtSigmaPipeline`` at the very size asked for, with captions as given.

    These are the settings ``use_resolution_binning=False`` and ``clean_caption=False`` of its call.
    """

    pipeline_class = "PixArtSigmaPipeline"
    stochastic_scheduler = schedulers.DDIM_WITH_NOISE

    @property
    def size_multiple(self) -> int:
        return math.lcm(8, self.pipe.vae_scale_factor * self.denoiser.config.patch_size)

    @property
    def text_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, TOKENS

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_mask``, ``negative_mask`` (P, L)."""
        encoded = self.pipe.encode_prompt(
            texts,
            self.guided,
            negatives,
            device=self.device,
            max_sequence_length=TOKENS,
        )
        return dict(zip(MASKED, encoded, strict=True))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        output = self.denoiser(
            model_input,
            encoder_hidden_states=prompts["prompt"],
            encoder_attention_mask=prompts["prompt_mask"],
            timestep=timestep.expand(len(model_input)),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return output[:, : model_input.shape[1]]
