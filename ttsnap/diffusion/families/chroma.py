"""Chroma: a transformer pruned from that of FLUX.1-schnell, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ttsnap.diffusion.families.packed import PackedSampler
from ttsnap.diffusion.sampler import MASKED

TOKENS = 512
"""Length to which the pipeline pads and cuts the text."""


class ChromaSampler(PackedSampler):
    """Drives a stock ``ChromaPipeline``.

    Of the padding the denoiser attends to the first token only.
    """

    pipeline_class = "ChromaPipeline"
    apart = True

    @property
    def text_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, TOKENS

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_mask``, ``negative_mask`` (P, L)."""
        prompt, _, mask, negative, _, negative_mask = self.pipe.encode_prompt(
            texts,
            negatives,
            self.device,
            do_classifier_free_guidance=self.guided,
            max_sequence_length=TOKENS,
        )
        return dict(zip(MASKED, (prompt, mask, negative, negative_mask), strict=True))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        batch, tokens = model_input.shape[:2]
        mask = self.pipe._prepare_attention_mask(batch, tokens, self.dtype, prompts["prompt_mask"])
        length = prompts["prompt"].shape[1]
        return self.denoiser(
            hidden_states=model_input,
            timestep=timestep.expand(batch).to(self.dtype) / 1000,
            encoder_hidden_states=prompts["prompt"],
            txt_ids=torch.zeros(length, 3, device=self.device, dtype=self.dtype),
            img_ids=self.places,
            attention_mask=mask,
            return_dict=False,
        )[0]
