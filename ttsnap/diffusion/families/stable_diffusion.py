"""Stable Diffusion 1 and 2 and pipelines of their shape: a U-Net with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.defaults import defaults_of, few_steps_of
from ttsnap.diffusion.sampler import Sampler


class StableDiffusionSampler(Sampler):
    """Drives a stock ``StableDiffusionPipeline``."""

    pipeline_class = "StableDiffusionPipeline"
    stochastic_scheduler = schedulers.DDIM_WITH_NOISE
    guidance_options = ("guidance_rescale",)

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """The call's, but for models that were distilled for few steps."""
        return defaults_of(pipe, **few_steps_of(pipe.scheduler, _embeds_guidance(pipe)))

    @property
    def distilled(self) -> bool:
        return _embeds_guidance(self.pipe)

    @property
    def size_multiple(self) -> int:
        return 8

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt`` and ``negative``, each (P, L, D)."""
        prompt, negative = self.pipe.encode_prompt(texts, self.device, 1, self.guided, negatives)
        return {"prompt": prompt, "negative": negative}

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return self.call_unet(model_input, timestep, prompts["prompt"])

    def call_unet(
        self,
        model_input: torch.Tensor,
        timestep: torch.Tensor,
        prompt: torch.Tensor,
        added: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """One pass of the U-Net with the text (B, L, D) and what else conditions it."""
        return self.pipe.unet(
            model_input,
            timestep,
            encoder_hidden_states=prompt,
            timestep_cond=self._guidance_embedding(len(model_input)) if self.distilled else None,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def _guidance_embedding(self, batch: int) -> Any:
        scale = torch.full((batch,), self.guidance_scale - 1)
        size = self.pipe.unet.config.time_cond_proj_dim
        embedding = self.pipe.get_guidance_scale_embedding(scale, embedding_dim=size)
        return embedding.to(self.device, self.dtype)


def _embeds_guidance(pipe: Any) -> bool:
    """Whether the U-Net is a guidance-distilled one, such as a latent consistency model.

    Its input is the guidance scale less 1 (arXiv 2310.04378).
    """
    return pipe.unet.config.time_cond_proj_dim is not None
