"""SDXL and what is finetuned or distilled from it: RealVisXL, Turbo, Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion.costs import copied
from ttsnap.diffusion.families.stable_diffusion import StableDiffusionSampler
from ttsnap.diffusion.sampler import POOLED


class StableDiffusionXLSampler(StableDiffusionSampler):
    """Drives a stock ``StableDiffusionXLPipeline``, without its watermark.

    The size of the picture is also what the U-Net is told of its training images: original and
    target size, without cropping (Podell et al., SDXL, section 2.2).
    """

    pipeline_class = "StableDiffusionXLPipeline"

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        size = (sampling.height, sampling.width)
        self._time_ids = torch.tensor(
            [[*size, 0, 0, *size]], device=self.device, dtype=self.dtype
        )  # of original size, corner of the crop, target size

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_pooled``, ``negative_pooled`` (P, D').

        Empty negative prompts are zeros where the pipeline takes no negative prompt for zeros.
        """
        encoded = self.pipe.encode_prompt(
            texts,
            device=self.device,
            do_classifier_free_guidance=self.guided,
            negative_prompt=negatives,
        )
        named = dict(zip(POOLED, encoded, strict=True))
        if self.guided and self.pipe.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([not text for text in negatives], device=self.device)
            named["negative"][empty], named["negative_pooled"][empty] = 0, 0
        return named

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        added = {
            "text_embeds": prompts["prompt_pooled"],
            "time_ids": self._time_ids.expand(len(model_input), -1),
        }
        return self.call_unet(model_input, timestep, prompts["prompt"], added)

    @property
    def autoencoder(self) -> Any:
        """That of the pipeline, or a copy of it in float32 if float16 overflows in it."""
        vae = self.pipe.vae
        upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
        return self._in_float32 if upcast else vae

    @cached_property
    def _in_float32(self) -> Any:
        return copied(self.pipe.vae, lambda tensor: tensor.to(self.device, torch.float32))

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        settings = self.pipe.vae.config
        mean, std = (settings.get(name) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return super().unscale(latents)
        mean, std = (latents.new_tensor(value).view(1, -1, 1, 1) for value in (mean, std))
        return latents * std / settings.scaling_factor + mean
