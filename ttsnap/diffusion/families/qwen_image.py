"""Qwen-Image: a multimodal transformer over packed latents that predicts the flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion.defaults import defaults_of
from ttsnap.diffusion.families.packed import PackedSampler
from ttsnap.diffusion.families.video import unstandardized
from ttsnap.diffusion.published import PRICED_TOKENS
from ttsnap.diffusion.sampler import Conditioning
from ttsnap.diffusion.texts import lengths, padded, repeated

TOKENS = 512
"""Length at which the pipeline cuts the text, with the end of its template."""


class QwenImageSampler(PackedSampler):
    """Drives a stock ``QwenImagePipeline``, whose texts are as long as they are.

    The guidance scale is the call's ``true_cfg_scale``, with the prediction rescaled to the norm of
    the prompt's own. An empty negative prompt is one, too, where a call without any has no
    guidance. The autoencoder is one of videos, of which an image is the only frame.
    """

    pipeline_class = "QwenImagePipeline"
    apart = True

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """With the guidance that the call has once it is given a negative prompt."""
        return defaults_of(pipe, guidance="true_cfg_scale")

    @property
    def text_limit(self) -> tuple[Any, int]:
        tokenizer = self.pipe.tokenizer
        template = tokenizer(self.pipe.prompt_template_encode.format("")).input_ids
        return tokenizer, TOKENS + self.pipe.prompt_template_encode_start_idx - len(template)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_mask``, ``negative_mask`` (P, L)."""
        tensors: dict[str, torch.Tensor | None] = {}
        for name, some in (("prompt", texts), ("negative", negatives))[: 1 + self.guided]:
            prompt, mask = self.pipe.encode_prompt(some, self.device, max_sequence_length=TOKENS)
            counts = lengths(torch.ones(prompt.shape[:2]) if mask is None else mask)
            own = [text[:count] for text, count in zip(prompt, counts, strict=True)]
            tensors[name], tensors[f"{name}_mask"] = padded(own)
        return tensors

    def priced_text(self) -> Conditioning:
        return Conditioning(repeated(super().priced_text().tensors, PRICED_TOKENS))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        batch, counts = len(model_input), lengths(prompts["prompt_mask"])
        longest, mask = max(counts), None
        if min(counts) < longest:
            mask = prompts["prompt_mask"][:, :longest].to(self.device)
        return self.denoiser(
            hidden_states=model_input,
            timestep=timestep.expand(batch).to(self.dtype) / 1000,
            encoder_hidden_states=prompts["prompt"][:, :longest],
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, *self.patches)]] * batch,
            return_dict=False,
        )[0]

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        guided = super().guide(positive, negative)
        own, changed = (torch.norm(flow, dim=-1, keepdim=True) for flow in (positive, guided))
        return guided * (own / changed)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return super().unpack(latents)[:, :, 0]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        return unstandardized(latents.unsqueeze(2), self.pipe.vae.config)

    def reconstruct(self, latents: torch.Tensor) -> torch.Tensor:
        return super().reconstruct(latents)[:, :, 0]
