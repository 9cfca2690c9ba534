"""How small an image becomes as a JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveInt

from ttsnap.config import Settings
from ttsnap.rewards.options import read_options, refuse_weights

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings

QUALITY = 80
BYTES_PER_PIXEL = 150_000 / (512 * 512)  # that count as incompressible


class CompressibilityOptions(Settings):
    max_bytes: PositiveInt | None = Field(
        None,
        description="Size at which the score reaches 0, bytes; null: 150000 for 512 x 512 pixels, "
        "in proportion for others.",
    )


class CompressibilityReward:
    """A `Reward`: 1 - bytes / max_bytes, at least 0, of the image as JPEG of quality 80."""

    Options = CompressibilityOptions
    scale = "share of the largest size that JPEG saves, 0 to 1"

    def __init__(self, name: str = "compressibility", max_bytes: int | None = None) -> None:
        self.name = name
        self.max_bytes = max_bytes

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "compressibility",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Check that nothing is asked for that there is not."""
        options = read_options(CompressibilityOptions, settings, name)
        refuse_weights(settings, name, checkpoint)
        return cls(name, options.max_bytes)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        most = self.max_bytes or BYTES_PER_PIXEL * images.shape[1] * images.shape[2]
        with ThreadPoolExecutor() as pool:
            sizes = np.array(list(pool.map(jpeg_bytes, images)))
        return np.maximum(1 - sizes / most, 0).astype(np.float32)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; nothing, as JPEG does no matrix product or convolution."""
        return 0.0


def jpeg_bytes(image: NDArray[np.uint8]) -> int:
    """Size of an image (H, W, 3) as a JPEG of quality 80, bytes."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.tell()
