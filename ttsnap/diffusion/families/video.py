"""What families of videos share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError


class VideoSampler(Sampler):
    """A sampler whose candidates are videos: :meth:`decode` gives uint8 (B, F, H, W, 3).

    Latents are kept in float32, as in the pipelines.
    """

    frame_rate: ClassVar[float]

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

    def _postprocess(self, decoded: torch.Tensor) -> np.ndarray:
        return self.pipe.video_processor.postprocess_video(decoded, output_type="np")
