"""Read a picture of the shapes world back, and say which parts of a caption hold in it.

The oracle is an algorithm, not a model: it knows the palette and the shapes of the grammar, and it
is used only to judge. It tolerates the slight blur of a decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from ttsnap.shapes import world
from ttsnap.shapes.world import BACKGROUNDS, COLORS, DIRECTIONS, RADII, RGB, SHAPES, Scene

LEAST_COVER = 0.4
"""Share of a pixel that a thing must cover for the pixel to belong to it."""
LEAST_AREA = 9.0
"""Covered area in pixels below which a speck is no thing."""
LEAST_MATCH = 0.62
"""Soft intersection over union with the best template below which a blob has no shape."""
LEAST_COLOR = 0.93
"""Cosine between a blob's colour and the nearest of the palette, both relative to the
background."""

PARTS = (
    "first_size",
    "first_color",
    "first_shape",
    "second_size",
    "second_color",
    "second_shape",
    "relation",
    "background",
    "count",
)


SPLIT_RADIUS = sum(RADII.values()) / len(RADII)
"""Radius in pixels from which on a thing is large."""


@dataclass(frozen=True)
class Seen:
    """One blob: the words that describe it (``None`` where none fits) and where it lies."""

    size: str
    color: str | None
    shape: str | None
    x: float
    y: float
    radius: float
    match: float


@dataclass(frozen=True)
class Reading:
    """What the oracle sees: the background and every thing on it, largest first."""

    background: str
    things: tuple[Seen, ...]


def _unit_shapes() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Area of each shape at radius 1, and by how much its centroid lies below its centre."""
    count, radius = len(SHAPES), 12.0
    middle = np.full(count, world.RESOLUTION / 2)
    masks = world.coverage(SHAPES, middle, middle, np.full(count, radius))
    rows = np.arange(world.RESOLUTION) + 0.5 - world.RESOLUTION / 2
    area = masks.sum((1, 2), dtype=np.float64)
    return area / radius**2, np.einsum("nhw,h->n", masks, rows) / area / radius


_UNIT_AREA, _UNIT_DROP = _unit_shapes()


def read(images: world.Images) -> list[Reading]:
    """Read pictures.

    Args:
        images: uint8 (B, RESOLUTION, RESOLUTION, 3).

    Returns:
        B readings.
    """
    return [
        reading
        for start in range(0, len(images), 256)
        for reading in _read(images[start : start + 256].astype(np.float32))
    ]


def _read(pixels: npt.NDArray[np.float32]) -> list[Reading]:
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    ground = np.median(border, axis=1)
    grounds = np.array([RGB[name] for name in BACKGROUNDS], np.float32)
    background = np.linalg.norm(ground[:, None] - grounds, axis=-1).argmin(1)

    # An edge pixel mixes a thing with the background, so colours are compared as directions away
    # from the background, and the length along the direction is the covered share.
    palette = np.array([RGB[name] for name in COLORS], np.float32) - ground[:, None]
    lengths = np.linalg.norm(palette, axis=-1)[:, None, None]
    offset = pixels - ground[:, None, None]
    projected = np.einsum("bhwc,bkc->bhwk", offset, palette) / lengths
    color = projected.argmax(-1)
    cover = np.take_along_axis(projected / lengths, color[..., None], -1)[..., 0]
    solid = cover > LEAST_COVER

    labels = np.zeros(solid.shape, np.int64)
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = True  # blobs do not reach from one picture of the batch into the next
    found = 0
    for index in range(len(COLORS)):
        blobs, count = ndimage.label(solid & (color == index), neighbours)
        labels += np.where(blobs, blobs + found, 0)
        found += count
    # The soft edge around a blob belongs to it.
    rim = ndimage.maximum_filter(labels, size=(1, 3, 3))
    labels = np.where(labels == 0, rim, labels)
    cover = np.where(labels > 0, np.clip(cover, 0, 1), 0)

    things: list[list[Seen]] = [[] for _ in pixels]
    for image, seen in _describe(labels, found, cover, offset, palette):
        things[image].append(seen)
    return [
        Reading(BACKGROUNDS[at], tuple(sorted(seen, key=lambda thing: -thing.radius)))
        for at, seen in zip(background, things, strict=True)
    ]


def _describe(
    labels: npt.NDArray[np.int64],
    count: int,
    cover: npt.NDArray[np.float32],
    offset: npt.NDArray[np.float32],
    palette: npt.NDArray[np.float32],
) -> list[tuple[int, Seen]]:
    """Every blob of a batch that is large enough, with the picture it is in."""

    def total(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        sums = np.bincount(labels.ravel(), values.ravel(), count + 1)[1:]
        return sums.astype(np.float64, copy=False)

    image, row, column = np.indices(labels.shape)
    area = total(cover)
    blob = np.flatnonzero(area >= LEAST_AREA)
    area = area[blob]
    x = total(cover * (column + 0.5))[blob] / area
    y = total(cover * (row + 0.5))[blob] / area
    at = np.rint(total(cover * image)[blob] / area).astype(int)

    tint = np.stack([total(cover * offset[..., channel]) for channel in range(3)], -1)[blob]
    cosine = np.einsum("nc,nkc->nk", tint, palette[at])
    cosine /= np.linalg.norm(tint, axis=-1)[:, None] * np.linalg.norm(palette[at], axis=-1)
    color = cosine.argmax(1)

    # The best of the shapes drawn with the blob's own area and centroid.
    own = cover[at] * (labels[at] == blob[:, None, None] + 1)
    match = np.empty((len(blob), len(SHAPES)))
    radius = np.sqrt(area[:, None] / _UNIT_AREA)
    for index, shape in enumerate(SHAPES):
        r = radius[:, index]
        template = world.coverage([shape] * len(blob), x, y - _UNIT_DROP[index] * r, r)
        overlap = np.minimum(own, template).sum((1, 2))
        match[:, index] = overlap / np.maximum(own, template).sum((1, 2))
    best = match.argmax(1)
    return [
        (
            int(at[n]),
            Seen(
                size="large" if radius[n, best[n]] > SPLIT_RADIUS else "small",
                color=COLORS[color[n]] if cosine[n, color[n]] > LEAST_COLOR else None,
                shape=SHAPES[best[n]] if match[n, best[n]] > LEAST_MATCH else None,
                x=float(x[n]),
                y=float(y[n]),
                radius=float(radius[n, best[n]]),
                match=float(match[n, best[n]]),
            ),
        )
        for n in range(len(blob))
    ]


def judge(images: world.Images, captions: Sequence[str]) -> pd.DataFrame:
    """Which parts of its caption hold in each picture.

    The two things of the caption are matched with those seen so that as many parts as possible
    hold. ``count`` holds if exactly two things are seen.

    Args:
        images: uint8 (B, RESOLUTION, RESOLUTION, 3).
        captions: B captions of the grammar.

    Returns:
        B rows: a boolean column for each of ``PARTS``, ``satisfied`` (all of them) and ``score``,
        the share of parts that hold.

    Raises:
        ValueError: a text is not a caption of the grammar.
    """
    rows = [
        _parts(reading, Scene.parse(caption))
        for reading, caption in zip(read(images), captions, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(PARTS), dtype=bool)
    return table.assign(satisfied=table.all(axis=1), score=table.mean(axis=1))


def judge_images(images: world.Images, prompts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Whether each picture satisfies its whole prompt.

    Args:
        images: uint8 (B, RESOLUTION, RESOLUTION, 3).
        prompts: B texts.

    Returns:
        float32 (B,): 1 or 0, and NaN where the prompt is not a caption of the grammar.
    """
    verdicts = np.full(len(images), np.nan, np.float32)
    known = [index for index, prompt in enumerate(prompts) if is_caption(prompt)]
    verdicts[known] = judge(images[known], [prompts[index] for index in known]).satisfied
    return verdicts


def is_caption(text: str) -> bool:
    """Whether a text belongs to the grammar."""
    try:
        Scene.parse(text)
    except ValueError:
        return False
    return True


def _parts(reading: Reading, scene: Scene) -> dict[str, bool]:
    absent = dict.fromkeys(PARTS[:-2], False)
    candidates = [
        _pair(first, second, scene)
        for first, second in permutations((*reading.things[:4], None), 2)
    ]
    best = max(candidates, key=lambda parts: sum(parts.values()), default=absent)
    return best | {
        "background": reading.background == scene.background,
        "count": len(reading.things) == 2,
    }


def _pair(first: Seen | None, second: Seen | None, scene: Scene) -> dict[str, bool]:
    """The parts that hold if these two are the things of the caption."""
    parts = {}
    for name, seen, thing in (
        ("first", first, scene.first),
        ("second", second, scene.second),
    ):
        for word in ("size", "color", "shape"):
            parts[f"{name}_{word}"] = seen is not None and getattr(seen, word) == getattr(
                thing, word
            )
    parts["relation"] = False
    if first is not None and second is not None:
        dx, dy = DIRECTIONS[scene.relation]
        along = (first.x - second.x) * dx + (first.y - second.y) * dy
        across = (first.x - second.x) * dy + (first.y - second.y) * dx
        reach = (first.radius + second.radius) / 2  # nothing is left of what it lies in
        parts["relation"] = along > max(abs(across), reach)
    return parts
