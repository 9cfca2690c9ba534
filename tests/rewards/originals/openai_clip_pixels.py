"""Prepare images as OpenAI's package clip does: ``python -m … FOLDER``.

FOLDER holds images_0.npy, images_1.npy and so on, each (B, H, W, 3).
"""

from __future__ import annotations

import sys
from pathlib import Path

import tests.rewards.originals.torchvision_operators  # noqa: F401 isort: skip
import numpy as np
from clip.clip import _transform
from PIL import Image

from tests.tiny_clip import SIZE


def main(folder: Path) -> None:
    prepare = _transform(SIZE)
    for file in sorted(folder.glob("images_*.npy")):
        pixels = [prepare(Image.fromarray(image)).numpy() for image in np.load(file)]
        np.save(file.with_name(file.name.replace("images", "pixels")), np.stack(pixels))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
