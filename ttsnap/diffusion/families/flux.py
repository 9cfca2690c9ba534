"""FLUX.1 dev and schnell: a transformer over packed latents that predicts the flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion.defaults import defaults_of
from ttsnap.diffusion.families.packed import PackedSampler

T5_TOKENS = 512
"""Length to which the pipeline pads and cuts the text for T5."""


class FluxSampler(PackedSampler):
    """Drives a stock ``FluxPipeline``.

    The guidance scale is an input of the guidance-distilled dev, 0 and 1 being values like others,
    and nothing to schnell. With the option ``true_cfg_scale`` above 1 there is classifier-free
    guidance, too, at this scale: a second pass, for the negative prompt.
    """

    pipeline_class = "FluxPipeline"
    guidance_options = ("true_cfg_scale",)
    apart = True

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        self._true_scale = sampling.guidance_options.get("true_cfg_scale", 1.0)
        self.guided = self._true_scale > 1

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """The call's; of schnell, without guidance and shift, the 4 steps it was distilled for."""
        dynamic = pipe.scheduler.config.use_dynamic_shifting
        schnell = not (pipe.transformer.config.guidance_embeds or dynamic)
        known: dict[str, Any] = {"steps": 4, "guidance_scale": 0.0} if schnell else {}
        return defaults_of(pipe, **known)

    @property
    def distilled(self) -> bool:
        return True

    @property
    def text_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer_2, T5_TOKENS

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) of T5, ``…_pooled`` (P, D') of CLIP."""
        tensors: dict[str, torch.Tensor | None] = {}
        for name, some in (("prompt", texts), ("negative", negatives))[: 1 + self.guided]:
            tensors[name], tensors[f"{name}_pooled"], _ = self.pipe.encode_prompt(
                some, None, self.device, max_sequence_length=T5_TOKENS
            )
        return tensors

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
            img_ids=self.places,
            return_dict=False,
        )[0]

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return negative + self._true_scale * (positive - negative)
