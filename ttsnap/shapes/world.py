"""The shapes world: a grammar of captions and a renderer that draws them.

A scene is two things in a spatial relation on a plain background. Everything random comes from the
generator that is passed in, so a seed gives the same captions and the same pixels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESOLUTION = 32
SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "ring", "cross")
RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = ("gray", "white", "black")

RADII = {"small": 4.6, "large": 6.9}
"""Mean radius in pixels; a rendering varies it by ``RADIUS_JITTER``."""
RADIUS_JITTER = 0.3
GAP = 1.5
"""Least distance in pixels between the two things along the axis of their relation."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 45),
    "green": (45, 165, 60),
    "blue": (45, 80, 225),
    "yellow": (240, 210, 40),
    "purple": (155, 50, 195),
    "cyan": (50, 205, 220),
    "gray": (128, 128, 128),
    "white": (240, 240, 240),
    "black": (18, 18, 18),
}

DIRECTIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""Where the first thing lies as seen from the second, in image coordinates (y grows downwards)."""

_HELD_OUT_SHARE = 0.2
_CAPTION = re.compile(
    rf"a ({'|'.join(SIZES)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)}) "
    rf"({'|'.join(RELATIONS)}) "
    rf"a ({'|'.join(SIZES)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)}) "
    rf"on a ({'|'.join(BACKGROUNDS)}) background"
)

Images = npt.NDArray[np.uint8]
"""uint8 (batch, height, width, channel)."""


@dataclass(frozen=True)
class Thing:
    """One object: its size, colour and shape, as words of the grammar."""

    size: str
    color: str
    shape: str

    def __str__(self) -> str:
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two things that differ in colour or shape, their relation, and the background."""

    first: Thing
    relation: str
    second: Thing
    background: str

    def __post_init__(self) -> None:
        if (self.first.color, self.first.shape) == (self.second.color, self.second.shape):
            raise ValueError(f"two things of the same colour and shape: {self.first.color} "
                             f"{self.first.shape}")  # fmt: skip

    @property
    def caption(self) -> str:
        """The scene in words."""
        return f"a {self.first} {self.relation} a {self.second} on a {self.background} background"

    @classmethod
    def parse(cls, caption: str) -> Scene:
        """Read a caption back.

        Raises:
            ValueError: the text is not a caption of the grammar.
        """
        match = _CAPTION.fullmatch(caption)
        if match is None:
            raise ValueError(f"not a caption of the shapes world: {caption!r}")
        part = match.groups()
        return cls(Thing(*part[:3]), part[3], Thing(*part[4:7]), part[7])


@dataclass(frozen=True)
class Placed:
    """A thing at a place: centre (x, y) and radius in pixels, (0, 0) being the top left corner."""

    thing: Thing
    x: float
    y: float
    radius: float


def sample_scene(rng: np.random.Generator) -> Scene:
    """A scene drawn uniformly from the grammar."""
    while True:
        sizes, colors, shapes = (rng.integers(len(words), size=2) for words in
                                 (SIZES, COLORS, SHAPES))  # fmt: skip
        if colors[0] != colors[1] or shapes[0] != shapes[1]:
            break
    first, second = (
        Thing(SIZES[size], COLORS[color], SHAPES[shape])
        for size, color, shape in zip(sizes, colors, shapes, strict=True)
    )
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    return Scene(first, relation, second, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def held_out(caption: str) -> bool:
    """Whether a caption (about a fifth of them) is kept out of all training.

    The answer is a property of the text alone, so it is the same everywhere and for ever.
    """
    digest = hashlib.sha256(caption.encode()).digest()
    return int.from_bytes(digest[:8]) < _HELD_OUT_SHARE * 2**64


def sample_training_scene(rng: np.random.Generator) -> Scene:
    """A scene whose caption is not held out."""
    while held_out((scene := sample_scene(rng)).caption):
        pass
    return scene


def held_out_captions(count: int, seed: int) -> list[str]:
    """``count`` distinct held-out captions in an order that depends on ``seed`` alone."""
    rng = np.random.default_rng(seed)
    captions: dict[str, None] = {}
    while len(captions) < count:
        caption = sample_scene(rng).caption
        if held_out(caption):
            captions[caption] = None
    return list(captions)


def arrange(scene: Scene, rng: np.random.Generator) -> tuple[Placed, Placed]:
    """Random places for the two things that satisfy the relation clearly.

    Along the axis of the relation the things are apart by at least ``GAP``; across it their centres
    differ by at most half of what they differ along it.
    """
    first, second = (
        RADII[thing.size] + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER)
        for thing in (scene.first, scene.second)
    )
    dx, dy = DIRECTIONS[scene.relation]
    forward = dx + dy > 0
    # Along the axis: `near` is the thing with the smaller coordinate.
    near, far = (second, first) if forward else (first, second)
    low, high = near + 0.7, RESOLUTION - far - 0.7
    reach = near + far + GAP
    distance = rng.uniform(reach, min(high - low, reach + 8))
    start = rng.uniform(low, high - distance)
    along = (start + distance, start) if forward else (start, start + distance)
    # Across it.
    radius = max(first, second)
    middle = rng.uniform(radius + 0.7, RESOLUTION - radius - 0.7)
    across = [
        np.clip(middle + rng.uniform(-0.25, 0.25) * distance, own + 0.7, RESOLUTION - own - 0.7)
        for own in (first, second)
    ]
    points = zip(along, across, strict=True) if dx else zip(across, along, strict=True)
    (x1, y1), (x2, y2) = points
    return (
        Placed(scene.first, float(x1), float(y1), float(first)),
        Placed(scene.second, float(x2), float(y2), float(second)),
    )


def coverage(
    shapes: Sequence[str],
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    radius: npt.NDArray[np.floating],
) -> npt.NDArray[np.float32]:
    """Anti-aliased masks of shapes from their signed distance functions.

    Args:
        shapes: N names of shapes.
        x, y: centres in pixels, (N,).
        radius: in pixels, (N,).

    Returns:
        float32 (N, RESOLUTION, RESOLUTION), the covered share of each pixel.
    """
    grid = np.arange(RESOLUTION, dtype=np.float32) + 0.5
    px = (grid[None, None, :] - x.astype(np.float32)[:, None, None]).repeat(RESOLUTION, axis=1)
    py = (grid[None, :, None] - y.astype(np.float32)[:, None, None]).repeat(RESOLUTION, axis=2)
    r = radius.astype(np.float32)[:, None, None]
    distance = np.empty_like(px)
    names = np.asarray(shapes)
    for shape in SHAPES:
        at = np.flatnonzero(names == shape)
        distance[at] = _signed_distance(shape, px[at], py[at], r[at])
    return np.clip(0.5 - distance, 0, 1)


def _signed_distance(
    shape: str,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    r: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Distance in pixels from (x, y) to the outline, negative inside (exact near edges)."""
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.9 * r
    if shape == "triangle":
        # Isosceles, apex up: base at y = 0.85 r, sides through (0, -r) and (r, 0.85 r).
        side = (1.85 * abs(x) - (y + r)) / np.float32(np.hypot(1.85, 1))
        return np.maximum(side, y - 0.85 * r)
    if shape == "ring":
        return abs(np.hypot(x, y) - 0.76 * r) - 0.24 * r
    across, along = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    return np.maximum(across - 0.32 * r, along - r)


def draw(
    layouts: Sequence[Sequence[Placed]], backgrounds: Sequence[str], rng: np.random.Generator
) -> Images:
    """Draw any things anywhere, later ones over earlier ones.

    Colours vary a little from thing to thing, and every pixel carries slight noise.

    Args:
        layouts: B lists of placed things, of any length, overlapping or not.
        backgrounds: B names of backgrounds.

    Returns:
        uint8 (B, RESOLUTION, RESOLUTION, 3).
    """
    canvas = np.empty((len(layouts), RESOLUTION, RESOLUTION, 3), np.float32)
    canvas[:] = _paint(backgrounds, rng, jitter=4)[:, None, None]
    for depth in range(max(map(len, layouts), default=0)):
        at = [index for index, layout in enumerate(layouts) if len(layout) > depth]
        placed = [layouts[index][depth] for index in at]
        x, y, radius = np.array([(p.x, p.y, p.radius) for p in placed], np.float32).T
        alpha = coverage([p.thing.shape for p in placed], x, y, radius)[..., None]
        paint = _paint([p.thing.color for p in placed], rng, jitter=8)[:, None, None]
        canvas[at] += alpha * (paint - canvas[at])
    canvas += rng.normal(0, 2, canvas.shape).astype(np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _paint(
    names: Sequence[str], rng: np.random.Generator, jitter: float
) -> npt.NDArray[np.float32]:
    """RGB of named colours, each varied by up to ``jitter`` per channel, float32 (N, 3)."""
    base = np.array([RGB[name] for name in names], np.float32)
    return base + rng.uniform(-jitter, jitter, base.shape).astype(np.float32)


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Images:
    """Pictures of scenes, uint8 (B, RESOLUTION, RESOLUTION, 3)."""
    layouts = [arrange(scene, rng) for scene in scenes]
    return draw(layouts, [scene.background for scene in scenes], rng)
