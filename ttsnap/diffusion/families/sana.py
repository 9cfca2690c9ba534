"""Sana: a linear-attention transformer over strongly compressed latents, predicting the flow."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.sampler import MASKED, Sampler

TOKENS = 300
"""Length to which the pipeline pads and cuts the text."""


class SanaSampler(Sampler):
    """Drives a stock ``SanaPipeline`` at the very size asked for, with its own instruction.

    The instruction that its language model reads before every prompt is the default of its call,
    whose ``use_resolution_binning`` is False. Latents are kept in float32, as there.
    """

    pipeline_class = "SanaPipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        self.dtype = torch.float32
        call = inspect.signature(type(pipe).__call__).parameters
        self._instruction: list[str] = call["complex_human_instruction"].default

    @property
    def size_multiple(self) -> int:
        return math.lcm(32, self.pipe.vae_scale_factor * self.denoiser.config.patch_size)

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
            complex_human_instruction=self._instruction,
        )
        return dict(zip(MASKED, encoded, strict=True))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        dtype = self.denoiser.dtype
        output = self.denoiser(
            model_input.to(dtype),
            encoder_hidden_states=prompts["prompt"].to(dtype),
            encoder_attention_mask=prompts["prompt_mask"],
            timestep=timestep.expand(len(model_input)) * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]
        return output[:, : model_input.shape[1]].float()
