"""What a reward's client and its server say to one another; docs/reward-server.md explains it.

All is JSON. Images travel as PNG in base64, and are read by Pillow's PNG decoder and nothing else.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Annotated

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKEN = "TTSNAP_REWARD_TOKEN"
"""Environment variable that holds the token which a server asks for."""

IMAGES = 64
PIXELS = IMAGES * 1024**2  # below the size that Pillow takes for a decompression bomb
BYTES = 4 * PIXELS + 2**24  # of noise: three bytes a pixel, four thirds in base64, and the prompts

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BITS_RGB = (8, 2)  # bit depth and colour type of the PNG header
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """Base of all messages: no conversions; keys that are unknown here are left out."""

    model_config = ConfigDict(strict=True)


class Limits(Message):
    """What one request may hold at most.

    Attributes:
        images: count.
        pixels: of all images together.
        bytes: of the body.
    """

    images: PositiveInt = IMAGES
    pixels: PositiveInt = PIXELS
    bytes: PositiveInt = BYTES


class Description(Message):
    """Of a reward that is served.

    Attributes:
        name: last part of its address.
        kind: as a config names it.
        scale: see `Reward`.
        tflops: of scoring one image of the size that was asked about, if one was and it is known.
        limits: see `Limits`.
    """

    name: str
    kind: str
    scale: str
    tflops: _Finite | None = None
    limits: Limits


class Question(Message):
    """Images of one size, PNG in base64, and as many prompts."""

    images: Annotated[list[str], Field(min_length=1)]
    prompts: list[str]


class Answer(Message):
    """A score for each image, null where there is none."""

    scores: list[_Finite | None]


class Complaint(Message):
    """What is wrong, in one line."""

    error: str


def encoded(image: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as PNG in base64."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return b64encode(file.getvalue()).decode()


def decoded(texts: Sequence[str], limits: Limits) -> NDArray[np.uint8]:
    """Images (B, H, W, 3), unpacked only after their headers say that they are small enough.

    Raises:
        ValueError: one line that says which image is none, or that they are too many or too large.
    """
    if len(texts) > limits.images:
        raise ValueError(f"{len(texts)} images, and {limits.images} are the most")
    files, sizes = [], []
    for index, text in enumerate(texts):
        try:
            files.append(b64decode(text, validate=True))
        except ValueError:
            raise ValueError(f"image {index} is not base64") from None
        sizes.append(_size(files[-1], index))
    if len(set(sizes)) > 1:
        raise ValueError("the images differ in size")
    width, height = sizes[0]
    if len(texts) * width * height > limits.pixels:
        raise ValueError(
            f"{len(texts)} images of {width} x {height} pixels, and {limits.pixels} pixels are the "
            "most"
        )
    images = np.empty((len(texts), height, width, 3), np.uint8)
    for index, file in enumerate(files):
        try:
            images[index] = np.asarray(Image.open(BytesIO(file), formats=["PNG"]))
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise ValueError(f"image {index} is damaged ({error})") from None
    return images


def _size(file: bytes, index: int) -> tuple[int, int]:
    """Width and height that the header of a PNG says (its first chunk, at byte 8)."""
    if not file.startswith(_SIGNATURE) or file[12:16] != b"IHDR" or len(file) < 26:
        raise ValueError(f"image {index} is not a PNG")
    width, height, *kind = struct.unpack(">IIBB", file[16:26])
    if tuple(kind) != _EIGHT_BITS_RGB or not width or not height:
        raise ValueError(f"image {index} is not RGB of 8 bits")
    return width, height
