"""What tests of figures read from the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ttsnap.drawing.style import BLUE

PROMPTS = [
    "a small red circle",
    "x",
    'émoji 🦊🏽 $x^2$ /slash\\ "quotes"\n漢字 \u200d عربى ' + "very long " * 99,
    "onewordonly" * 90,
    "W" * 900,
]


def read(path: Path) -> np.ndarray:
    """The pixels, after a check that nothing is cut off at the edges."""
    pixels = np.array(Image.open(path).convert("RGB"))
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert np.all(edge == 255), "something runs over the edge"
    return pixels


def area(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int(np.all(pixels == colour, axis=2).sum())


def blue() -> tuple[int, int, int]:
    red, green, blue = (int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def has(pixels: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool(np.any(np.all(pixels == wanted, axis=2)))
