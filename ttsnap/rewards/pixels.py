"""Images as a vision model wants them: resized, cropped or padded, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from ttsnap.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_MODES = {Resampling.BILINEAR: "bilinear", Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class Preparation:
    """Resizes by Pillow, crops in the middle, normalises.

    Attributes:
        resize: (height, width), or the length of the shorter side, which keeps the proportions.
        crop: (height, width) left in the middle.
        resample: filter of Pillow.
        mean: of each channel, subtracted from values in [0, 1].
        std: of each channel, divided by.
        rounds: whether half an odd margin is rounded to the nearest even pixel, as torchvision
            does; transformers rounds it down.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    resample: Resampling = Resampling.BICUBIC
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD
    rounds: bool = False

    @classmethod
    def of(cls, processor: Any, place: str) -> Self:
        """Read from an image processor of transformers (its Pillow variant).

        Raises:
            UserError: the processor prepares an image otherwise; ``place`` names it.
        """
        size, crop = processor.size, processor.crop_size
        resize = size.shortest_edge or (size.height, size.width)
        share = getattr(processor, "crop_pct", None)
        if share and size.shortest_edge:  # ConvNeXt crops small images and warps large ones
            edge = size.shortest_edge
            resize = int(edge / share) if edge < 384 else (edge, edge)
            window = (edge, edge)
        elif processor.do_center_crop:
            window = (crop.height, crop.width)
        else:
            window = resize
        known = isinstance(window, tuple) and processor.resample in _MODES
        if known:
            prepare = cls(
                resize,
                window,
                Resampling(processor.resample),
                tuple(processor.image_mean),
                tuple(processor.image_std),
            )
            image = np.random.default_rng(0).integers(0, 256, (1, 301, 417, 3), dtype=np.uint8)
            stock = np.stack(processor(list(image), return_tensors="np")["pixel_values"])
            found = prepare(image, torch.device("cpu")).numpy()
            known = found.shape == stock.shape and np.allclose(found, stock, atol=1e-6)
        if not known:
            raise UserError(
                f"{place}/preprocessor_config.json: {type(processor).__name__} does something "
                "else than to resize (bilinear or bicubic), crop, rescale by 1/255 and normalise"
            )
        return prepare

    def __call__(
        self, images: NDArray[np.uint8] | torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """Prepare images; see `TrainableReward.pixel_values`.

        Args:
            images: (B, H, W, 3) uint8, or (B, 3, H, W) float tensor in [0, 1].
            device: where the result is to be.

        Returns:
            (B, 3, h, w) float32, h and w those of the crop.
        """
        if isinstance(images, torch.Tensor):
            pixels = self._resize_and_crop(images.to(device))
        else:
            pixels = torch.from_numpy(self._by_pillow(images)).to(device).permute(0, 3, 1, 2)
            # In double precision, then rounded, as the stock processors do.
            pixels = (pixels.double() * (1 / 255)).float()
        return _normalised(pixels, self.mean, self.std)

    def _by_pillow(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = self._resized(*images.shape[1:3])
        rows, columns = self._window(height, width)
        if (height, width) == images.shape[1:3]:
            return np.ascontiguousarray(images[:, rows, columns])

        def prepare(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            resized = Image.fromarray(image).resize((width, height), self.resample)
            return np.asarray(resized)[rows, columns]

        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(prepare, images)))

    def _resize_and_crop(self, images: torch.Tensor) -> torch.Tensor:
        """The same up to Pillow's rounding to 8 bits, differentiable."""
        size = self._resized(images.shape[2], images.shape[3])
        if size != tuple(images.shape[2:]):
            # Unlike Pillow, torch lets bicubic overshoot.
            mode = _MODES[self.resample]
            images = F.interpolate(images, size=size, mode=mode, antialias=True).clamp(0, 1)
        rows, columns = self._window(*size)
        return images[:, :, rows, columns]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize
        short = min(height, width)
        return int(self.resize * height / short), int(self.resize * width / short)

    def _window(self, height: int, width: int) -> tuple[slice, slice]:
        margins = (height - self.crop[0], width - self.crop[1])
        top, left = (round(margin / 2) if self.rounds else margin // 2 for margin in margins)
        return slice(top, top + self.crop[0]), slice(left, left + self.crop[1])


@dataclass(frozen=True)
class Letterbox:
    """Fits the longer side, pads to a square with black, normalises, as HPSv2's package does.

    It resizes values in [0, 1], not 8 bits as Pillow does, so that bicubic may overshoot, and pads
    before it normalises: see ``ResizeMaxSize`` in the open_clip of hpsv2 1.2.0, which resizes with
    antialiasing since torchvision 0.17.

    Attributes:
        size: height and width of the square; the image is in its middle, half a pixel up or left
            where the margin is odd.
        mean: of each channel, subtracted from values in [0, 1].
        std: of each channel, divided by.
    """

    size: int
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD

    def __call__(
        self, images: NDArray[np.uint8] | torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """Prepare images, as `Preparation` does; the result is (B, 3, size, size) float32."""
        if isinstance(images, torch.Tensor):
            fitted = self._fitted(images.to(device))
        else:
            # One by one: large images in floats would take too much memory.
            rows = torch.from_numpy(images).permute(0, 3, 1, 2).split(1)
            fitted = torch.cat([self._fitted(row.to(device).float() / 255) for row in rows])
        return _normalised(fitted, self.mean, self.std)

    def _fitted(self, images: torch.Tensor) -> torch.Tensor:
        scale = self.size / max(images.shape[2:])
        height, width = (round(side * scale) for side in images.shape[2:])
        if scale != 1:
            images = F.interpolate(images, size=(height, width), mode="bicubic", antialias=True)
        top, left = (self.size - height) // 2, (self.size - width) // 2
        return F.pad(images, (left, self.size - width - left, top, self.size - height - top))


def _normalised(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    centre, spread = (
        torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std)
    )
    return (pixels - centre) / spread
