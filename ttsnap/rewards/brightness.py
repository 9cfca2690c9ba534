"""How bright an image is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ttsnap.rewards.options import NoOptions, read_options, refuse_weights

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings

LUMA = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue, ITU-R BT.709


class BrightnessReward:
    """A `Reward`: the mean of 0.2126 R + 0.7152 G + 0.0722 B over the pixels."""

    Options = NoOptions
    scale = "mean luma, 0 (black) to 1 (white)"

    def __init__(self, name: str = "brightness") -> None:
        self.name = name

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "brightness",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Check that nothing is asked for that there is not."""
        read_options(NoOptions, settings, name)
        refuse_weights(settings, name, checkpoint)
        return cls(name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        return (images.mean(axis=(1, 2)) @ LUMA / 255).astype(np.float32)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; three multiply-adds a pixel."""
        return 6 * height * width / 1e12
