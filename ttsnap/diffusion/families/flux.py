"""FLUX.1 dev and schnell: a transformer over packed latents that predicts the flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.sampler import Sampler

T5_TOKENS = 512
"""Length to which the pipeline pads and cuts the text for T5."""


class FluxSampler(Sampler):
    """Drives a stock ``FluxPipeline``.

    Latents are packed: a token (4 C) for each 2 x 2 of them. The guidance scale is an input of
    the guidance-distilled dev, 0 and 1 being values like others, and nothing to schnell. Neither
    takes negative prompts: the call's ``true_cfg_scale`` stays 1.
    """

    pipeline_class = "FluxPipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        channels, height, width = self.latent_shape
        self._unpacked_shape = (channels // 4, height, width)
        self.latent_shape = (math.prod(self._patches), channels)

    @property
    def distilled(self) -> bool:
        return True

    @property
    def _patches(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.height // self.size_multiple, self.width // self.size_multiple

    @property
    def size_multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @property
    def text_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer_2, T5_TOKENS

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        return schedulers.shifted(scheduler, math.prod(self._patches), self.steps)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, tokens, 4 C), drawn as (B, C, h, w) as the pipeline does."""
        drawn = self._draw(seeds, self._unpacked_shape)
        return self.pipe._pack_latents(drawn, len(drawn), *self._unpacked_shape)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        factor = self.pipe.vae_scale_factor
        return self.pipe._unpack_latents(latents, self.height, self.width, factor)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt`` (P, L, D) of T5 and ``prompt_pooled`` (P, D') of CLIP."""
        prompt, pooled, _ = self.pipe.encode_prompt(
            texts, None, self.device, max_sequence_length=T5_TOKENS
        )
        return {"prompt": prompt, "prompt_pooled": pooled}

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        batch, length = prompts["prompt"].shape[:2]
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((batch,), self.guidance_scale, device=self.device)
        return self.denoiser(
            hidden_states=model_input,
            timestep=timestep.expand(batch).to(self.dtype) / 1000,
            guidance=guidance,
            pooled_projections=prompts["prompt_pooled"],
            encoder_hidden_states=prompts["prompt"],
            txt_ids=torch.zeros(length, 3, device=self.device, dtype=self.dtype),
            img_ids=self.pipe._prepare_latent_image_ids(
                batch, *self._patches, self.device, self.dtype
            ),
            return_dict=False,
        )[0]
