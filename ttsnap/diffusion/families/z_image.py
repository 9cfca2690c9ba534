"""Z-Image, base and Turbo: a transformer over image and text as one sequence, for the flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.defaults import defaults_of
from ttsnap.diffusion.guidance import limited
from ttsnap.diffusion.published import PRICED_TOKENS
from ttsnap.diffusion.sampler import Conditioning
from ttsnap.diffusion.stages import StagedSampler
from ttsnap.diffusion.texts import lengths, padded, repeated, room

BASE_SHIFT = 6.0
"""Shift of the timesteps of the base model; Turbo's is 3."""

TOKENS = 512
"""Length at which the pipeline cuts the text, with what its template adds."""


class ZImageSampler(StagedSampler):
    """Drives a stock ``ZImagePipeline``, whose texts are as long as they are.

    The guidance scale is w of Ho and Salimans, eq. 6, itself: there is guidance above 0, where
    others begin at 1, and none at 0, as Turbo is used. Of its options ``cfg_normalization`` limits
    the norm of a prediction, and from 1 - t / 1000 of ``cfg_truncation`` on there is none: an
    evaluation is a single pass then. Latents are kept in float32, as there.
    """

    pipeline_class = "ZImagePipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE
    guided_above = 0.0
    guidance_options = ("cfg_normalization", "cfg_truncation")

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        truncation = sampling.guidance_options.get("cfg_truncation", 1.0)
        if truncation < 1:
            self.boundary = 1000 * (1 - truncation)
        super().__init__(pipe, sampling)
        self.dtype = torch.float32

    def below(self) -> Self:
        return self.changed(guided=False)

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """The call's; of Turbo, which its scheduler's shift tells from the base, what it is for."""
        turbo = pipe.scheduler.config.shift < BASE_SHIFT
        known: dict[str, Any] = {"steps": 9, "guidance_scale": 0.0} if turbo else {}
        return defaults_of(pipe, height=1024, width=1024, **known)

    @property
    def size_multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @property
    def text_limit(self) -> tuple[Any, int]:
        return self.pipe.tokenizer, room(self.pipe.tokenizer, TOKENS, thinking=True)

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        patches = self.height * self.width // self.size_multiple**2
        return schedulers.shifted(scheduler, patches, self.steps)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_mask``, ``negative_mask`` (P, L)."""
        encoded = self.pipe.encode_prompt(
            texts,
            self.device,
            self.guided,
            negatives,
            max_sequence_length=TOKENS,
        )
        both, masks = padded([text for part in encoded for text in part])
        count = len(texts)
        tensors = {"prompt": both[:count], "prompt_mask": masks[:count]}
        if self.guided:
            tensors |= {"negative": both[count:], "negative_mask": masks[count:]}
        return {**tensors}

    def priced_text(self) -> Conditioning:
        return Conditioning(repeated(super().priced_text().tensors, PRICED_TOKENS))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        texts = zip(prompts["prompt"], lengths(prompts["prompt_mask"]), strict=True)
        time = (1000 - timestep.expand(len(model_input))) / 1000
        output = self.denoiser(
            list(model_input.to(self.denoiser.dtype).unsqueeze(2)),
            time,
            [text[:length] for text, length in texts],
            return_dict=False,
        )[0]
        # It predicts the flow towards the image.
        return -torch.stack(output).squeeze(2).float()

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        guided = positive + self.guidance_scale * (positive - negative)
        factor = self.sampling.guidance_options.get("cfg_normalization", 0.0)
        return limited(guided, positive, factor) if factor else guided
