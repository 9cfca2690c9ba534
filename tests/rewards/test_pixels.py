"""Images prepared as the stock image processors do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ttsnap.errors import UserError
from ttsnap.rewards.pixels import Preparation

CPU = torch.device("cpu")
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
    "crop": BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=SQUARE),
    "warp": ViTImageProcessorPil(size={"height": 24, "width": 36}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875),
    "large convnext": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(64, 64), (47, 81), (50, 33), (20, 24)])
def test_pixels_are_the_stock_ones(name: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    stock = PROCESSORS[name](list(images), return_tensors="pt")["pixel_values"]
    prepare = Preparation.of(PROCESSORS[name], name)
    assert torch.equal(prepare(images, CPU), stock)


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(do_normalize=False),
        CLIPImageProcessorPil(do_center_crop=False),
        ViTImageProcessorPil(resample=0),
        ViTImageProcessorPil(rescale_factor=1 / 127.5),
    ],
)
def test_processors_that_do_otherwise_are_refused(processor: object) -> None:
    with pytest.raises(UserError, match=r"folder/preprocessor_config.json"):
        Preparation.of(processor, "folder")


def test_odd_margins_are_rounded_as_torchvision_does() -> None:
    """Half a margin of 3 is 1 in transformers and 2 in torchvision; of 1 it is 0 in both."""
    image = np.arange(11, dtype=np.uint8)[None, None, :, None].repeat(8, 1).repeat(3, 3)
    for rounds, first in [(False, 1), (True, 2)]:
        prepare = Preparation(8, (8, 8), mean=(0, 0, 0), std=(1, 1, 1), rounds=rounds)
        assert prepare(image, CPU)[0, 0, 0, 0] * 255 == pytest.approx(first)
