"""The pictures that the generator of the shapes world learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from ttsnap.shapes import world
from ttsnap.shapes.misled import FAULTS, mislead


@dataclass(frozen=True)
class Renderings:
    """Training pictures, none of whose captions is held out.

    Attributes:
        images: uint8 (N, 32, 32, 3).
        focus: float16 (N, 32, 32), how much each pixel counts for the autoencoder.
        captions: N texts.
        misled: (N,) whether the caption is wrong in part; every third one is.
    """

    images: world.Images
    focus: npt.NDArray[np.float16]
    captions: list[str]
    misled: npt.NDArray[np.bool_]

    @classmethod
    def sample(cls, count: int, seed: int, faults: Sequence[str] = FAULTS) -> Self:
        """Draw ``count`` of them, of which those that are misled have one of ``faults`` each."""
        rng = np.random.default_rng(seed)
        misled = np.arange(count) % 3 == 2
        captions, images, focus = [], [], []
        for block in np.array_split(misled, math.ceil(count / 1000)):
            scenes, layouts = [], []
            for wrong in block:
                scene, said, layout = _scene(rng, faults if wrong else ())
                scenes.append(scene)
                layouts.append(layout)
                captions.append(said.caption)
            images.append(world.draw(layouts, [scene.background for scene in scenes], rng))
            focus.append(np.stack([*map(_focus, layouts)]))
        return cls(np.concatenate(images), np.concatenate(focus), captions, misled)


def _scene(
    rng: np.random.Generator, faults: Sequence[str]
) -> tuple[world.Scene, world.Scene, list[world.Placed]]:
    """A scene, what its caption says, and what lies where; without faults the caption is right."""
    while True:
        scene = world.sample_training_scene(rng)
        if not faults:
            return scene, scene, [*world.arrange(scene, rng)]
        try:
            return scene, *mislead(scene, str(rng.choice(faults)), rng)
        except ValueError:
            continue


def _focus(layout: Sequence[world.Placed]) -> npt.NDArray[np.float16]:
    """Little weight on the background, most on small things, whose shape is a matter of pixels."""
    grid = np.arange(world.RESOLUTION) + 0.5
    weight = np.full((world.RESOLUTION, world.RESOLUTION), 0.3)
    for placed in layout:
        near = np.hypot(grid - placed.x, grid[:, None] - placed.y) < placed.radius + 1.5
        weight = np.maximum(weight, near * (3.0 if placed.thing.size == "small" else 1.0))
    return weight.astype(np.float16)


def to_pixels(images: world.Images) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
