"""Scenes as integers, and as codes: vectors whose inner products count what two scenes share."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from ttsnap.shapes import world

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

RADICES = (2, 6, 5, 4, 2, 6, 5, 3)
"""A scene as integers: size, colour, shape, relation, size, colour, shape, background."""
N_SHAPES, N_COLORS, N_BACKGROUNDS = 5, 6, 3

# Squared weights of the code's blocks. An attribute counts once at its place (first or second along
# the axis of the relation) and twice bound to the object's other attributes wherever that is.
W_PLACE, W_BOUND, W_AXIS, W_BACKGROUND = 0.5, 0.75, 1.5, 1.5
NORM = 6 * W_PLACE + 6 * W_BOUND + W_AXIS + W_BACKGROUND
CODE_SIZE = 2 * 13 + 30 + 12 + 10 + 2 + 3 + 1


def scene_of(row: npt.ArrayLike) -> world.Scene:
    """The scene that eight integers (see `RADICES`) stand for."""
    s1, c1, h1, rel, s2, c2, h2, bg = np.asarray(row).tolist()
    return world.Scene(
        world.Thing(world.SIZES[s1], world.COLORS[c1], world.SHAPES[h1]),
        world.RELATIONS[rel],
        world.Thing(world.SIZES[s2], world.COLORS[c2], world.SHAPES[h2]),
        world.BACKGROUNDS[bg],
    )


def row_of(scene: world.Scene) -> list[int]:
    """The eight integers (see `RADICES`) of a scene."""
    things = [
        [
            world.SIZES.index(t.size),
            world.COLORS.index(t.color),
            world.SHAPES.index(t.shape),
        ]
        for t in (scene.first, scene.second)
    ]
    relation = world.RELATIONS.index(scene.relation)
    return [*things[0], relation, *things[1], world.BACKGROUNDS.index(scene.background)]


@functools.cache
def _trainable() -> npt.NDArray[np.bool_]:
    """For each scene, by its index in `RADICES` order, whether its caption may be trained on."""
    rows = np.stack(np.unravel_index(np.arange(math.prod(RADICES)), RADICES), axis=1)
    table = (rows[:, 1] != rows[:, 5]) | (rows[:, 2] != rows[:, 6])
    for index in np.flatnonzero(table):
        table[index] = not world.held_out(scene_of(rows[index]).caption)
    return table


def trainable(rows: Ints) -> npt.NDArray[np.bool_]:
    """Which of the scenes (N, 8) are valid and not held out, bool (N,)."""
    return _trainable()[np.ravel_multi_index(tuple(rows.T), RADICES)]


def mirrored(rows: Ints) -> Ints:
    """The same scenes told from the second thing: "a left of b" becomes "b right of a"."""
    out = rows[:, [4, 5, 6, 3, 0, 1, 2, 7]].copy()
    out[:, 3] ^= 1
    return out


def depictable(rows: Ints) -> npt.NDArray[np.bool_]:
    """Which scenes have at least one trainable caption that describes them."""
    return trainable(rows) | trainable(mirrored(rows))


def sample_rows(rng: np.random.Generator, count: int) -> Ints:
    """``count`` random trainable scenes (count, 8)."""
    pool = np.flatnonzero(_trainable())
    return np.stack(np.unravel_index(rng.choice(pool, count), RADICES), axis=1).astype(np.int64)


SWAPS = ("size", "color", "shape", "background", "reversed", "axis", "exchange")


def swap(rows: Ints, kind: str, rng: np.random.Generator) -> Ints:
    """Scenes (N, 8) with one thing changed: an attribute of either object, the background, the
    relation turned round, the relation's axis, or one attribute exchanged between the objects."""
    out = rows.copy()
    index = np.arange(len(rows))
    if kind in ("size", "color", "shape"):
        column = ("size", "color", "shape").index(kind) + 4 * rng.integers(2, size=len(rows))
        radix = np.asarray(RADICES)[column]
        out[index, column] = (rows[index, column] + rng.integers(1, radix)) % radix
    elif kind == "background":
        out[:, 7] = (rows[:, 7] + rng.integers(1, N_BACKGROUNDS, len(rows))) % N_BACKGROUNDS
    elif kind == "reversed":
        out[:, 3] ^= 1
    elif kind == "axis":
        out[:, 3] = (rows[:, 3] // 2 * 2 + 2 + rng.integers(2, size=len(rows))) % 4
    else:
        column = rng.integers(3, size=len(rows))
        out[index, column], out[index, column + 4] = (
            rows[index, column + 4],
            rows[index, column],
        )
    return out


def one_hot(values: Ints, size: int) -> Floats:
    return np.eye(size, dtype=np.float32)[values]


def code(
    size: Floats,
    color: Floats,
    shape: Floats,
    first_near: Floats,
    horizontal: Floats,
    relation: Floats,
    background: Floats,
    clean: Floats,
) -> Floats:
    """The code of scenes whose factors are known or partly true.

    Args:
        size, color, shape: what each object is, (N, 2, classes); sums below 1 for weak objects.
        first_near: how far the first object is the left or upper one, in [0, 1], (N,).
        horizontal: how far the relation is left/right rather than above/below, (N,).
        relation: how clear the relation is, (N,).
        background: (N, 3).
        clean: 1 for a picture without things nobody asked for, (N,).

    Returns:
        Unit vectors, float32 (N, CODE_SIZE). The last entry holds what is missing.
    """
    n = len(size)
    place = math.sqrt(W_PLACE) * np.concatenate([size, color, shape], axis=2)
    near = first_near[:, None]
    slots = [near * place[:, 0] + (1 - near) * place[:, 1]]
    slots += [near * place[:, 1] + (1 - near) * place[:, 0]]
    # The weight of a weak object must not count twice where two attributes are multiplied.
    weight = np.maximum(color.sum(2), 1e-6)[:, :, None, None]
    bound = []
    for a, b in ((color, shape), (size, color), (size, shape)):
        both = (a[:, :, :, None] * b[:, :, None, :] / weight).sum(1).reshape(n, -1)
        # Two objects alike in both attributes keep the norm of two that differ.
        bound.append(math.sqrt(W_BOUND) * np.where(both > 1, np.sqrt(np.maximum(both, 1)), both))
    axis = np.stack([horizontal, 1 - horizontal], axis=1) * relation[:, None]
    known = np.concatenate(
        [
            *slots,
            *bound,
            math.sqrt(W_AXIS) * axis,
            math.sqrt(W_BACKGROUND) * background,
        ],
        axis=1,
    )
    known *= clean[:, None]
    missing = np.sqrt(np.maximum(NORM - (known**2).sum(1, keepdims=True), 0))
    return (np.concatenate([known, missing], axis=1) / math.sqrt(NORM)).astype(np.float32)


def code_of_rows(rows: Ints) -> Floats:
    """The codes of scenes (N, 8) as captions state them, float32 (N, CODE_SIZE)."""
    ones = np.ones(len(rows), np.float32)
    return code(
        one_hot(rows[:, [0, 4]], 2),
        one_hot(rows[:, [1, 5]], N_COLORS),
        one_hot(rows[:, [2, 6]], N_SHAPES),
        (rows[:, 3] % 2 == 0).astype(np.float32),
        (rows[:, 3] < 2).astype(np.float32),
        ones,
        one_hot(rows[:, 7], N_BACKGROUNDS),
        ones,
    )
