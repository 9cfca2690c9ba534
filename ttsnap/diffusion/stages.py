"""Trajectories that are not denoised in the same way from their first step to their last."""

from __future__ import annotations

import copy
from abc import abstractmethod
from functools import cached_property
from typing import Any, Self

import torch

from ttsnap.diffusion.sampler import Sampler
from ttsnap.diffusion.state import Conditioning


class StagedSampler(Sampler):
    """A sampler that denoises in another way below a timestep, if it has such a boundary.

    Attributes:
        boundary: timestep down to which it denoises in the first way, or None.
    """

    boundary: float | None = None

    @abstractmethod
    def below(self) -> Self:
        """What denoises below the boundary, made of :meth:`changed`."""

    def changed(self, **attributes: Any) -> Self:
        """The same without a boundary, and with other values of some attributes."""
        other = copy.copy(self)
        vars(other).update(attributes, boundary=None)
        return other

    @cached_property
    def stages(self) -> list[tuple[Sampler, int]]:
        if self.boundary is None:
            return [(self, self.steps)]
        above = int((self._scheduler.timesteps >= self.boundary).sum())
        return [(self.changed(), above), (self.below(), self.steps - above)]

    def denoise(
        self, model_input: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        if self.boundary is None:
            return super().denoise(model_input, timestep, conditioning)
        (above, _), (below, _) = self.stages
        stage = above if timestep >= self.boundary else below
        return stage.denoise(model_input, timestep, conditioning)
