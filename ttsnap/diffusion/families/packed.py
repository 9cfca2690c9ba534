"""What families share whose latents are tokens: 2 x 2 latents in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.sampler import Sampler


class PackedSampler(Sampler):
    """A sampler whose latents are packed: a token (4 C) for each 2 x 2 of them."""

    stochastic_scheduler = schedulers.FLOW_WITH_NOISE

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        self.latent_shape = (math.prod(self.patches), 4 * self.latent_size()[0])

    def latent_size(self) -> tuple[int, ...]:
        channels, *size = super().latent_size()
        return channels // 4, *size

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.height // self.size_multiple, self.width // self.size_multiple

    @property
    def size_multiple(self) -> int:
        return 2 * self.pipe.vae_scale_factor

    @cached_property
    def places(self) -> torch.Tensor:
        """Where each token is in the picture."""
        make = self.pipe._prepare_latent_image_ids
        return make(1, *self.patches, self.device, self.dtype)

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        return schedulers.shifted(scheduler, math.prod(self.patches), self.steps)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, tokens, 4 C), drawn as (B, C, h, w) as the pipeline does."""
        drawn = self._draw(seeds, self.latent_size())
        return self.pipe._pack_latents(drawn, *drawn.shape)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        factor = self.pipe.vae_scale_factor
        return self.pipe._unpack_latents(latents, self.height, self.width, factor)
