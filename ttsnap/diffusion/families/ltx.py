"""LTX-Video: a transformer over packed latents of videos that predicts the flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.families.video import VideoSampler
from ttsnap.diffusion.sampler import MASKED
from ttsnap.errors import UserError

TOKENS = 128
"""Length to which the pipeline pads and cuts the text."""


class LTXSampler(VideoSampler):
    """Drives a stock ``LTXPipeline``.

    Latents are packed: a token for each patch of them.
    """

    pipeline_class = "LTXPipeline"
    stochastic_scheduler = schedulers.FLOW_WITH_NOISE
    frame_rate = 25.0
    guidance_options = ("guidance_rescale",)

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        if any(pipe.vae.config.decoder_inject_noise):
            raise UserError(
                "model.path: the decoder adds noise of its own, so that a seed has no video of its "
                "own; expected another version than LTX-Video 0.9.1"
            )
        super().__init__(pipe, sampling)
        self._unpacked_shape = self.latent_shape
        packed = self._pack(torch.empty(1, *self._unpacked_shape, device="meta"))
        self.latent_shape = tuple(packed.shape[1:])

    @property
    def scale_factor(self) -> int:
        return self.pipe.vae_spatial_compression_ratio

    @property
    def frame_factor(self) -> int:
        return self.pipe.vae_temporal_compression_ratio

    @property
    def size_multiple(self) -> int:
        return math.lcm(32, self.scale_factor * self.pipe.transformer_spatial_patch_size)

    @property
    def text_limit(self) -> tuple[Any, int] | None:
        return self.pipe.tokenizer, TOKENS

    @property
    def _patches(self) -> tuple[int, int]:
        """Sizes of a patch in space and time."""
        return self.pipe.transformer_spatial_patch_size, self.pipe.transformer_temporal_patch_size

    def _pack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.pipe._pack_latents(latents, *self._patches)

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        _, *size = self.latent_shape
        return schedulers.shifted(scheduler, math.prod(size), self.steps)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, tokens, C), drawn as (B, C, f, h, w) as the pipeline does."""
        return self._pack(self._draw(seeds, self._unpacked_shape))

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        return self.pipe._unpack_latents(latents, *self._unpacked_shape[1:], *self._patches)

    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """``prompt``, ``negative`` (P, L, D) and ``prompt_mask``, ``negative_mask`` (P, L)."""
        encoded = self.pipe.encode_prompt(
            texts,
            negatives,
            self.guided,
            max_sequence_length=TOKENS,
            device=self.device,
        )
        return dict(zip(MASKED, encoded, strict=True))

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        _, frames, height, width = self._unpacked_shape
        factor = self.scale_factor
        return self.denoiser(
            hidden_states=model_input.to(prompts["prompt"].dtype),
            encoder_hidden_states=prompts["prompt"],
            timestep=timestep.expand(len(model_input)),
            encoder_attention_mask=prompts["prompt_mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(self.frame_factor / self.frame_rate, factor, factor),
            return_dict=False,
        )[0].float()

    def reconstruct(self, latents: torch.Tensor) -> torch.Tensor:
        """An autoencoder that can denoise a last time is told that there is no noise left."""
        vae = self.pipe.vae
        plain = self.pipe._denormalize_latents(
            self.unpack(latents), vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        ).to(vae.dtype)
        time = plain.new_zeros(len(plain)) if vae.config.timestep_conditioning else None
        return vae.decode(plain, time, return_dict=False)[0]
