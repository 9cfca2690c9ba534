"""Stable Diffusion 3 and 3.5: a multimodal transformer that predicts the flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ttsnap.diffusion import schedulers
from ttsnap.diffusion.sampler import POOLED, Sampler

T5_TOKENS = 256
"""Length to which the pipeline pads and cuts the text for T5."""


class StableDiffusion3Sampler(Sampler):
    """Drives a stock ``StableDiffusion3Pipeline``, without skipping layers in the guidance."""

    pipeline_class = "StableDiffusion3Pipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE

    @property
    def size_multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.pipe.patch_size

    @property
    def text_limit(self) -> tuple[Any, int] | None:
        if self.pipe.tokenizer_3 is None:
            return super().text_limit
        return self.pipe.tokenizer_3, T5_TOKENS

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        area = self.height * self.width
        return schedulers.shifted(scheduler, area // self.size_multiple**2)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_pooled``, ``negative_pooled`` (P, D')."""
        encoded = self.pipe.encode_prompt(
            texts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=self.guided,
            negative_prompt=negatives,
            max_sequence_length=T5_TOKENS,
        )
        return dict(zip(POOLED, encoded, strict=True))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return self.denoiser(
            hidden_states=model_input,
            timestep=timestep.expand(len(model_input)),
            encoder_hidden_states=prompts["prompt"],
            pooled_projections=prompts["prompt_pooled"],
            return_dict=False,
        )[0]
