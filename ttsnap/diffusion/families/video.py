"""What families of videos share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from ttsnap import config
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError


class VideoSampler(Sampler):
    """A sampler whose candidates are videos: :meth:`decode` gives uint8 (B, F, H, W, 3).

    Latents are kept in float32, as in the pipelines.
    """

    frame_rate: float

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        super().__init__(pipe, sampling)
        self.dtype = torch.float32

    @property
    @abstractmethod
    def frame_factor(self) -> int:
        """Frames of a latent, but for the first, which has one."""

    @property
    def latent_frames(self) -> int:
        """Length of the latents in time."""
        return (self.frames - 1) // self.frame_factor + 1

    def latent_size(self) -> tuple[int, ...]:
        """Shape of a candidate's latents as the autoencoder has them: C, f, h, w."""
        channels, *size = super().latent_size()
        factor = self.frame_factor
        if (self.frames - 1) % factor:
            raise UserError(
                f"sampling.frames: must be 1 more than a multiple of {factor}, not {self.frames}"
            )
        return channels, self.latent_frames, *size

    def _postprocess(self, decoded: torch.Tensor) -> torch.Tensor:
        return self.pipe.video_processor.postprocess_video(decoded, output_type="pt")


def unstandardized(latents: torch.Tensor, settings: Any) -> torch.Tensor:
    """Latents (B, C, f, h, w) as an autoencoder made them before they were standardized.

    Args:
        latents: of mean 0 and deviation 1 in each channel.
        settings: config of the autoencoder, with ``latents_mean`` and ``latents_std``.
    """
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1).to(latents.dtype)
        for values in (settings.latents_mean, settings.latents_std)
    )
    return latents / (1 / std) + mean
