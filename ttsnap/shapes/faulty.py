"""Pictures of scenes that are wrong in part, with the codes of what is to be seen in them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ttsnap.shapes import world
from ttsnap.shapes.codes import (
    N_BACKGROUNDS,
    N_COLORS,
    N_SHAPES,
    Floats,
    Ints,
    code,
    depictable,
    one_hot,
    scene_of,
)


@dataclass
class Pictures:
    """A batch of pictures with what they show.

    ``images`` uint8 (N, 32, 32, 3); ``codes`` (N, CODE_SIZE) of what is to be seen; ``captions``
    (N, 8) the scene that was asked for; ``faults`` (N,) how many corruptions were applied;
    ``patches`` (N, 64) which object covers each 4x4 patch: 0 none, 1 first, 2 second; ``things``
    (N, 2, 3) size, colour, shape of the objects as drawn.
    """

    images: world.Images
    codes: Floats
    captions: Ints
    faults: Ints
    patches: Ints
    things: Ints


FAULTS = (
    "missing", "recolor", "reshape", "morph", "resize", "between", "move", "warp", "extra",
    "background", "bite", "stain",
)  # fmt: skip
"""What is wrong with finished pictures. Nothing here is faint, blurred or mixed of two colours: the
reward is to know Tweedie estimates no better than one made for photographs does."""


def paint(rows: Ints, faults: Ints, rng: np.random.Generator) -> Pictures:
    """Pictures of trainable scenes (N, 8) with ``faults`` (N,) random corruptions each."""
    n, size = len(rows), world.RESOLUTION
    shown = rows.copy()
    # Which corruptions, on which object, how strong.
    applied = {name: np.zeros(n, bool) for name in FAULTS}
    on = {name: rng.integers(2, size=n) for name in FAULTS}
    order = rng.permuted(np.tile(np.arange(len(FAULTS)), (n, 1)), axis=1)
    for index, count in enumerate(faults):
        for fault in order[index, :count]:
            applied[FAULTS[fault]][index] = True
    strength = {name: rng.uniform(0, 1, n).astype(np.float32) for name in FAULTS}

    # Corruptions that make another scene of it.
    for name, column, radix in (
        ("recolor", 1, N_COLORS),
        ("reshape", 2, N_SHAPES),
        ("resize", 0, 2),
    ):
        trial = shown.copy()
        at = np.flatnonzero(applied[name])
        where = column + 4 * on[name][at]
        trial[at, where] = (trial[at, where] + rng.integers(1, radix, len(at))) % radix
        good = depictable(trial)
        shown[good] = trial[good]
    trial = shown.copy()
    at = np.flatnonzero(applied["background"])
    trial[at, 7] = (trial[at, 7] + rng.integers(1, N_BACKGROUNDS, len(at))) % N_BACKGROUNDS
    good = depictable(trial)
    shown[good] = trial[good]

    # Places. Overlaps come only from moves.
    surely_small = world.RADII["small"] + world.RADIUS_JITTER
    surely_large = world.RADII["large"] - world.RADIUS_JITTER
    xy, radius = np.empty((n, 2, 2), np.float32), np.empty((n, 2), np.float32)
    for index, row in enumerate(shown):
        for which, placed in enumerate(world.arrange(scene_of(row), rng)):
            xy[index, which], radius[index, which] = (placed.x, placed.y), placed.radius
    at = np.flatnonzero(applied["move"])
    k = on["move"][at]
    margin = radius[at, k][:, None]
    xy[at, k] = margin + (size - 2 * margin) * rng.random((len(at), 2))
    at = np.flatnonzero(applied["between"])
    radius[at, on["between"][at]] = rng.uniform(surely_small - 0.9, surely_large + 0.9, len(at))

    things = np.stack([shown[:, :3], shown[:, 4:7]], axis=1)
    # Factors as they will be seen.
    color = one_hot(things[:, :, 1], N_COLORS)
    shape = one_hot(things[:, :, 2], N_SHAPES)
    large = np.clip((radius - surely_small) / (surely_large - surely_small), 0, 1)
    seen_size = np.stack([1 - large, large], axis=2)
    weight = np.ones((n, 2), np.float32)
    background = one_hot(shown[:, 7], N_BACKGROUNDS)
    clean = np.ones(n, np.float32)

    # Outlines.
    grid = np.arange(size, dtype=np.float32) + 0.5
    px = grid[None, None, None, :] - xy[:, :, 0, None, None] + np.zeros((size, 1), np.float32)
    py = grid[None, None, :, None] - xy[:, :, 1, None, None] + np.zeros((1, size), np.float32)
    at = np.flatnonzero(applied["warp"])
    k, force = on["warp"][at], strength["warp"][at]
    bend = _smooth_noise(rng, 2 * len(at), 6).reshape(2, len(at), size, size)
    reach = (0.25 + 0.45 * force) * radius[at, k]
    px[at, k] += reach[:, None, None] * bend[0]
    py[at, k] += reach[:, None, None] * bend[1]
    doubt = (0.15 + 0.6 * force)[:, None]
    shape[at, k] = (1 - doubt) * shape[at, k] + doubt / N_SHAPES
    distance = _distance(things[:, :, 2], px, py, radius)
    at = np.flatnonzero(applied["morph"])
    k = on["morph"][at]
    other = (things[at, k, 2] + rng.integers(1, N_SHAPES, len(at))) % N_SHAPES
    share = 0.2 + 0.3 * strength["morph"][at]
    distance[at, k] += share[:, None, None] * (
        _distance(other, px[at, k], py[at, k], radius[at, k]) - distance[at, k]
    )
    shape[at, k] = (1 - share[:, None]) * shape[at, k] + share[:, None] * one_hot(other, N_SHAPES)
    mask = np.clip(0.5 - distance, 0, 1)

    # Objects that are not all there.
    at = np.flatnonzero(applied["missing"])
    mask[at, on["missing"][at]] = 0
    weight[at, on["missing"][at]] = 0
    at = np.flatnonzero(applied["bite"])
    k, full = on["bite"][at], mask[at, on["bite"][at]].sum((1, 2))
    angle = rng.uniform(0, 2 * np.pi, len(at))[:, None, None]
    cut = (1 - 1.6 * strength["bite"][at])[:, None, None] * 0.7 * radius[at, k][:, None, None]
    depth = np.cos(angle) * px[at, k] + np.sin(angle) * py[at, k] - cut
    mask[at, k] *= np.clip(0.5 - depth, 0, 1)
    left = mask[at, k].sum((1, 2)) / np.maximum(full, 1e-6)
    weight[at, k] *= np.where(full > 0, left, 1)

    # Paint.
    palette = np.array([world.RGB[name] for name in world.COLORS], np.float32)
    ground = np.array([world.RGB[name] for name in world.BACKGROUNDS], np.float32)
    rgb = palette[things[:, :, 1]] + rng.uniform(-8, 8, (n, 2, 3)).astype(np.float32)
    fill = np.broadcast_to(rgb[:, :, None, None], (n, 2, size, size, 3)).copy()

    jitter = rng.uniform(-4, 4, (n, 1, 1, 3)).astype(np.float32)
    canvas = ground[shown[:, 7]][:, None, None] + jitter + np.zeros((size, size, 1), np.float32)
    at = np.flatnonzero(applied["extra"])
    if len(at):
        extra_radius = rng.uniform(surely_small - 1.4, surely_large, len(at)).astype(np.float32)
        spot = rng.uniform(3, size - 3, (len(at), 2)).astype(np.float32)
        outline = _distance(
            rng.integers(N_SHAPES, size=len(at)),
            grid[None, None, :] - spot[:, 0, None, None] + np.zeros((size, 1), np.float32),
            grid[None, :, None] - spot[:, 1, None, None] + np.zeros((1, size), np.float32),
            extra_radius,
        )
        stray = np.clip(0.5 - outline, 0, 1)[..., None]
        paint_of = palette[rng.integers(N_COLORS, size=len(at))][:, None, None]
        canvas[at] += stray * (paint_of - canvas[at])
        # What is hidden behind the two objects disturbs nobody.
        free = stray[..., 0] * (1 - mask[at].max(1))
        clean[at] *= 1 - 0.18 * np.clip(free.sum((1, 2)) / 25, 0, 1)
    for which in range(2):
        canvas += mask[:, which, :, :, None] * (fill[:, which] - canvas)
    # The second object hides what it covers of the first.
    visible = mask.copy()
    visible[:, 0] *= 1 - mask[:, 1]
    shade = visible.sum((2, 3)) / np.maximum(mask.sum((2, 3)), 1e-6)
    weight *= np.where(mask.sum((2, 3)) > 0, shade, 1)

    at = np.flatnonzero(applied["stain"])
    tint = rng.normal(0, 1, (len(at), 1, 1, 3)).astype(np.float32)
    tint *= (25 + 70 * strength["stain"][at])[:, None, None, None]
    canvas[at] += np.clip(_smooth_noise(rng, len(at), 4), 0, 1)[..., None] * tint
    clean[at] *= 1 - 0.04 - 0.12 * strength["stain"][at]
    # As a decoder may blur.
    sigma = np.where(rng.random(n) < 0.5, rng.uniform(0.2, 0.7, n), 0).astype(np.float32)
    canvas = _blur(canvas, sigma)
    canvas += rng.normal(0, 1, canvas.shape).astype(np.float32) * rng.uniform(0, 4, (n, 1, 1, 1))
    images = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)

    # The relation as it is seen.
    offset = xy[:, 1] - xy[:, 0]
    apart = np.abs(offset)
    horizontal = _sigmoid(apart[:, 0] - apart[:, 1])
    first_near = horizontal * _sigmoid(2 * offset[:, 0]) + (1 - horizontal) * _sigmoid(
        2 * offset[:, 1]
    )
    both = weight.min(1)
    first_near = 0.5 + (first_near - 0.5) * np.minimum(2 * both, 1)
    gone = weight[:, :, None]
    codes = code(
        seen_size * gone,
        color * gone,
        shape * gone,
        first_near,
        horizontal,
        both,
        background,
        clean,
    )
    covered = visible.reshape(n, 2, size // 4, 4, size // 4, 4).mean((3, 5)).reshape(n, 2, -1)
    patches = np.where(covered.max(1) > 0.12, covered.argmax(1) + 1, 0)
    return Pictures(images, codes, rows, faults, patches.astype(np.int64), things)


def _distance(shape: Ints, x: Floats, y: Floats, radius: Floats) -> Floats:
    out = np.empty_like(x)
    for index, name in enumerate(world.SHAPES):
        at = shape == index
        out[at] = world._signed_distance(name, x[at], y[at], radius[at][:, None, None])
    return out


def _sigmoid(x: Floats) -> Floats:
    return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)


@functools.cache
def _upsampling(cells: int) -> Floats:
    """Linear interpolation from ``cells`` to RESOLUTION points, (RESOLUTION, cells)."""
    at = np.linspace(0, cells - 1, world.RESOLUTION)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, count: int, cells: int) -> Floats:
    """Smooth random fields of unit size, (count, RESOLUTION, RESOLUTION)."""
    up = _upsampling(cells)
    coarse: Floats = rng.normal(0, 1, (count, cells, cells)).astype(np.float32)
    return (up @ coarse @ up.T).astype(np.float32)


def _blur(images: Floats, sigma: Floats) -> Floats:
    """Gaussian blur of (N, H, W, 3) with a sigma in pixels for each, edges repeated."""
    reach = 5
    at = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (at / np.maximum(sigma, 1e-3)[:, None]) ** 2).astype(np.float32)
    kernel /= kernel.sum(1, keepdims=True)
    # As a matrix for each image: out[i] = sum_j kernel[j - i] in[clip(j)].
    size = world.RESOLUTION
    matrix = np.zeros((len(images), size, size), np.float32)
    for shift, column in zip(at, kernel.T, strict=True):
        target = np.clip(np.arange(size) + shift, 0, size - 1)
        matrix[:, np.arange(size), target] += column[:, None]
    flat = images.reshape(len(images), size, -1)
    rows = (matrix @ flat).reshape(images.shape).swapaxes(1, 2)
    return (matrix @ rows.reshape(flat.shape)).reshape(images.shape).swapaxes(1, 2)
