"""Training of the small CLIP that scores images of the shapes world.

A caption of this world is a handful of factors, so both towers are trained towards the same *code*:
a vector with one block per factor, in which the inner product of two codes counts the factors that
agree. The text tower learns the code of a caption, the vision tower that of a picture, including
pictures that are wrong in part, whose codes lie in between. The cosine of the two is
then a graded reward: each wrong attribute costs about the same. Contrast against captions with one
thing changed and a preference between pictures of the same caption sharpen the ranking.

No caption with `world.held_out` is trained on.
"""

from __future__ import annotations

import functools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ttsnap.shapes import world

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

RADICES = (2, 6, 5, 4, 2, 6, 5, 3)
"""A scene as integers: size, colour, shape, relation, size, colour, shape, background."""
_N_SHAPES, _N_COLORS, _N_BACKGROUNDS = 5, 6, 3

# Squared weights of the code's blocks. An attribute counts once at its place (first or second along
# the axis of the relation) and twice bound to the object's other attributes wherever that is.
W_PLACE, W_BOUND, W_AXIS, W_BACKGROUND = 0.5, 0.75, 1.5, 1.5
NORM = 6 * W_PLACE + 6 * W_BOUND + W_AXIS + W_BACKGROUND
CODE_SIZE = 2 * 13 + 30 + 12 + 10 + 2 + 3 + 1

LOGIT_SCALE = 10.0
TEXT_STEPS, TEXT_BATCH = 700, 256
VISION_STEPS = 3000
BATCH, GROUP = 128, 4
SAVE_EVERY = 250
MEAN = STD = 0.5


# --------------------------------------------------------------------------------------- scenes


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
        out[:, 7] = (rows[:, 7] + rng.integers(1, _N_BACKGROUNDS, len(rows))) % _N_BACKGROUNDS
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


# --------------------------------------------------------------------------------------- codes


def _one_hot(values: Ints, size: int) -> Floats:
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
        _one_hot(rows[:, [0, 4]], 2),
        _one_hot(rows[:, [1, 5]], _N_COLORS),
        _one_hot(rows[:, [2, 6]], _N_SHAPES),
        (rows[:, 3] % 2 == 0).astype(np.float32),
        (rows[:, 3] < 2).astype(np.float32),
        ones,
        _one_hot(rows[:, 7], _N_BACKGROUNDS),
        ones,
    )


# ----------------------------------------------------------------------------------- pictures


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
        ("recolor", 1, _N_COLORS),
        ("reshape", 2, _N_SHAPES),
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
    trial[at, 7] = (trial[at, 7] + rng.integers(1, _N_BACKGROUNDS, len(at))) % _N_BACKGROUNDS
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
    color = _one_hot(things[:, :, 1], _N_COLORS)
    shape = _one_hot(things[:, :, 2], _N_SHAPES)
    large = np.clip((radius - surely_small) / (surely_large - surely_small), 0, 1)
    seen_size = np.stack([1 - large, large], axis=2)
    weight = np.ones((n, 2), np.float32)
    background = _one_hot(shown[:, 7], _N_BACKGROUNDS)
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
    shape[at, k] = (1 - doubt) * shape[at, k] + doubt / _N_SHAPES
    distance = _distance(things[:, :, 2], px, py, radius)
    at = np.flatnonzero(applied["morph"])
    k = on["morph"][at]
    other = (things[at, k, 2] + rng.integers(1, _N_SHAPES, len(at))) % _N_SHAPES
    share = 0.2 + 0.3 * strength["morph"][at]
    distance[at, k] += share[:, None, None] * (
        _distance(other, px[at, k], py[at, k], radius[at, k]) - distance[at, k]
    )
    shape[at, k] = (1 - share[:, None]) * shape[at, k] + share[:, None] * _one_hot(other, _N_SHAPES)
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
            rng.integers(_N_SHAPES, size=len(at)),
            grid[None, None, :] - spot[:, 0, None, None] + np.zeros((size, 1), np.float32),
            grid[None, :, None] - spot[:, 1, None, None] + np.zeros((1, size), np.float32),
            extra_radius,
        )
        stray = np.clip(0.5 - outline, 0, 1)[..., None]
        paint_of = palette[rng.integers(_N_COLORS, size=len(at))][:, None, None]
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


# -------------------------------------------------------------------------------------- model


def build_model(seed: int) -> tuple[CLIPModel, Any]:
    """An untrained CLIP of the right size, and its tokenizer."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from ttsnap.shapes.tokenizer import MAX_LENGTH, build_tokenizer

    tokenizer = build_tokenizer()
    shared = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "projection_dim": CODE_SIZE,
    }
    config = CLIPConfig(
        text_config=shared
        | {
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=shared
        | {"num_hidden_layers": 4, "image_size": world.RESOLUTION, "patch_size": 4},
        projection_dim=CODE_SIZE,
        logit_scale_init_value=math.log(LOGIT_SCALE),
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    # Places known from the start save the time of finding them out.
    table = model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        table[1:] = 0.1 * torch.from_numpy(_sinusoids(world.RESOLUTION // 4, table.shape[1]))
    return model, tokenizer


def _sinusoids(side: int, width: int) -> Floats:
    """Sines and cosines of the row and the column of each patch, (side * side, width)."""
    frequency = 10 ** -np.linspace(0, 1, width // 4)
    y, x = np.divmod(np.arange(side * side), side)
    waves = np.stack([y, x])[:, :, None] * frequency
    return np.concatenate([*np.sin(waves), *np.cos(waves)], axis=1).astype(np.float32)


def pixels(images: world.Images) -> torch.Tensor:
    """Images as the saved image processor hands them to the model, float32 (B, 3, H, W)."""
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - MEAN) / STD


def _tokens(tokenizer: Any, rows: Ints) -> dict[str, torch.Tensor]:
    captions = [scene_of(row).caption for row in rows]
    return dict(tokenizer(captions, padding=True, return_tensors="pt"))


def save(model: CLIPModel, out: Path) -> None:
    """Write the folder that `CLIPModel.from_pretrained` and `AutoProcessor` read, in half
    precision."""
    import copy

    from transformers import CLIPImageProcessor, CLIPProcessor

    from ttsnap.shapes.tokenizer import build_tokenizer

    processor = CLIPImageProcessor(
        size={"shortest_edge": world.RESOLUTION},
        crop_size={"height": world.RESOLUTION, "width": world.RESOLUTION},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    half = copy.deepcopy(model).half()
    half.set_attn_implementation("sdpa")
    half.save_pretrained(out)
    # A fresh tokenizer: one that was used keeps the padding of its last call.
    CLIPProcessor(image_processor=processor, tokenizer=build_tokenizer()).save_pretrained(out)


# ----------------------------------------------------------------------------------- training


def _rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: linear warm-up over 4 %, then a cosine to a hundredth."""
    warm = max(1, steps // 25)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def train_text(model: CLIPModel, tokenizer: Any, seed: int, steps: int = TEXT_STEPS) -> float:
    """Teach the text tower the codes of captions; the mean cosine of the last 50 steps."""
    import torch
    from torch.nn.functional import cosine_similarity

    parameters = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    recent: list[float] = []
    for step in range(steps):
        rng = np.random.default_rng((seed, 1, step))
        rows = sample_rows(rng, TEXT_BATCH)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps, 2e-3)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.text_model(**_tokens(tokenizer, rows)).pooler_output
        embeds = model.text_projection(hidden.float())
        cosine = cosine_similarity(embeds, torch.from_numpy(code_of_rows(rows))).mean()
        optimizer.zero_grad()
        (20 * (1 - cosine)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent = [*recent, cosine.item()][-50:]
        if step % 50 == 49:
            print(f"text {step + 1}/{steps} cosine {recent[-1]:.4f}", flush=True)
    return float(np.mean(recent))


def negatives(rows: Ints, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Codes of wrong captions for each of N scenes, (N, K, CODE_SIZE), and which may be used."""
    kinds = [*("size", "color", "shape") * 3, "background", "reversed", "axis", *["exchange"] * 2]
    wrong = [swap(rows, kind, rng) for kind in kinds] + [rng.permutation(rows) for _ in range(6)]
    codes = np.stack([code_of_rows(w) for w in wrong], axis=1)
    usable = np.stack([depictable(w) for w in wrong], axis=1)
    usable &= np.einsum("nkd,nd->nk", codes, code_of_rows(rows)) < 0.99
    return codes, usable


class VisionTrainer:
    """The vision tower with the heads that only training needs."""

    def __init__(self, model: CLIPModel, seed: int, steps: int) -> None:
        import torch

        torch.manual_seed(seed + 1)
        self.model, self.seed, self.steps = model, seed, steps
        width = model.config.vision_config.hidden_size
        classes = 2 + _N_COLORS + _N_SHAPES
        self.heads = torch.nn.ModuleDict(
            {
                "patches": torch.nn.Linear(width, classes + 1),
                "pooled": torch.nn.Linear(width, 2 * classes + 2),
            }
        )
        self.parameters = [
            *model.vision_model.parameters(),
            *model.visual_projection.parameters(),
            *self.heads.parameters(),
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.02)
        self.step_index = 0

    def batch(self, step: int) -> tuple[Pictures, Floats, Floats, npt.NDArray[np.bool_]]:
        """The pictures of a step: one half right, the other in groups that get worse."""
        rng = np.random.default_rng((self.seed, 2, step))
        half = BATCH // 2
        rows = np.concatenate(
            [sample_rows(rng, half), sample_rows(rng, half // GROUP).repeat(GROUP, axis=0)]
        )
        faults = np.concatenate([np.zeros(half, np.int64), np.tile([0, 1, 1, 2], half // GROUP)])
        faults[half:] += rng.random(half) < 0.15
        pictures = paint(rows, faults, rng)
        return pictures, code_of_rows(rows), *negatives(rows[:half], rng)

    def step(self) -> dict[str, float]:
        """One step of the optimizer; the parts of its loss."""
        import torch
        from torch.nn import functional as F

        pictures, asked, wrong, usable = self.batch(self.step_index)
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(self.step_index, self.steps, 1.5e-3)
        with torch.autocast("cpu", torch.bfloat16):
            out = self.model.vision_model(pixels(pictures.images))
        pooled, tokens = out.pooler_output.float(), out.last_hidden_state[:, 1:].float()
        embeds = F.normalize(self.model.visual_projection(pooled), dim=-1)
        asked_codes = torch.from_numpy(asked)
        score = (embeds * asked_codes).sum(1)
        truth = torch.from_numpy((pictures.codes * asked).sum(1))
        half = BATCH // 2

        regression = 1 - (embeds * torch.from_numpy(pictures.codes)).sum(1).mean()
        right = score[:half, None]
        others = torch.einsum("nd,nkd->nk", embeds[:half], torch.from_numpy(wrong))
        logits = 30 * torch.cat([right, others], 1)
        logits[:, 1:].masked_fill_(~torch.from_numpy(usable), -1e4)
        contrast = F.cross_entropy(logits, torch.zeros(half, dtype=torch.long))
        grouped, goal = score[half:].view(-1, GROUP), truth[half:].view(-1, GROUP)
        gap = grouped[:, :, None] - grouped[:, None, :]
        goal_gap = goal[:, :, None] - goal[:, None, :]
        preference = F.softplus(-30 * gap[goal_gap > 0.03]).mean()
        auxiliary = self._auxiliary(pictures, pooled, tokens)
        loss = 20 * regression + contrast + preference + auxiliary
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step_index += 1
        with torch.no_grad():
            return {
                "regression": regression.item(),
                "contrast": contrast.item(),
                "preference": preference.item(),
                "auxiliary": auxiliary.item(),
                "top": float((logits.argmax(1) == 0).float().mean()),
                "pairs": float((gap[goal_gap > 0.03] > 0).float().mean()),
            }

    def _auxiliary(
        self, pictures: Pictures, pooled: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Name the objects, by patch and by place, in pictures without faults."""
        import torch
        from torch.nn import functional as F

        good = pictures.faults == 0
        parts = [2, _N_COLORS, _N_SHAPES]
        loss = torch.zeros(())
        patches = torch.from_numpy(pictures.patches[good])
        things = torch.from_numpy(pictures.things[good])
        named = self.heads["patches"](tokens[torch.from_numpy(good)])
        loss = loss + F.binary_cross_entropy_with_logits(named[..., -1], (patches > 0).float())
        picture, patch = torch.nonzero(patches > 0, as_tuple=True)
        truth = things[picture, patches[picture, patch] - 1]
        for column, logits in enumerate(named[picture, patch][:, :-1].split(parts, dim=1)):
            loss = loss + 0.5 * F.cross_entropy(logits, truth[:, column])
        rows = pictures.captions[good]
        near = torch.from_numpy(rows[:, 3] % 2)
        index = torch.arange(len(rows))
        pooled = self.heads["pooled"](pooled[torch.from_numpy(good)])
        *places, axis = pooled.split([*parts, *parts, 2], dim=1)
        for k, logits in enumerate(places):
            which = near if k < 3 else 1 - near
            loss = loss + 0.5 * F.cross_entropy(logits, things[index, which, k % 3])
        return loss + 0.5 * F.cross_entropy(axis, torch.from_numpy(rows[:, 3] // 2))

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on from here."""
        return {
            "step": self.step_index,
            "steps": self.steps,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_index = state["step"]


def train(
    out: Path,
    seed: int = 0,
    steps: int = VISION_STEPS,
    text_steps: int = TEXT_STEPS,
    judged: int = 2000,
) -> dict[str, Any]:
    """Train the CLIP on the CPU, save it under ``out`` and say how good it is.

    A run that was killed goes on where it last saved its state, in ``out/training.pt``; the state
    goes when the weights are there. The weights depend on the seed, the numbers of steps and the
    machine's arithmetic only.

    Returns:
        `evaluate` of the weights as saved on ``judged`` captions, with ``seed``, the steps and
        ``seconds``.
    """
    import torch
    from transformers import CLIPModel

    began = time.time()
    model, tokenizer = build_model(seed)
    # The fused attention's backward pass is slow on CPUs.
    model.set_attn_implementation("eager")
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "training.pt"
    trainer = VisionTrainer(model, seed, steps)
    if saved.exists():
        trainer.resume(torch.load(saved))
    else:
        train_text(model, tokenizer, seed, text_steps)
    recent: list[dict[str, float]] = []
    while trainer.step_index < steps:
        recent.append(trainer.step())
        done = trainer.step_index
        if done % 50 == 0:
            means = {name: np.mean([r[name] for r in recent]) for name in recent[0]}
            line = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(f"vision {done}/{steps} {time.time() - began:.0f} s {line}", flush=True)
            recent = []
        if done % SAVE_EVERY == 0 and done < steps:
            partial = saved.with_suffix(".part")
            torch.save(trainer.state(), partial)
            partial.replace(saved)
    save(model, out)
    saved.unlink(missing_ok=True)
    seconds = time.time() - began
    model = CLIPModel.from_pretrained(out, dtype=torch.float32)
    result = evaluate(model, tokenizer, seed, judged)
    result |= {"seed": seed, "steps": steps, "text_steps": text_steps, "seconds": round(seconds)}
    print(json.dumps(result, indent=1), flush=True)
    return result


# --------------------------------------------------------------------------------- evaluation


def evaluate(model: CLIPModel, tokenizer: Any, seed: int, count: int = 2000) -> dict[str, Any]:
    """How well a trained CLIP reads pictures of captions it never saw.

    Returns:
        ``swaps``: for each kind of change, how often the true caption wins on ``count`` renderings;
        ``single``: the same over size, colour, shape and background, ``reversed`` included;
        ``pairs``: how often the better of two corrupted pictures of a caption wins.
    """
    import torch

    rng = np.random.default_rng((seed, 3))
    model = model.eval()

    def embed(images: world.Images) -> torch.Tensor:
        with torch.no_grad():
            parts = [
                model.get_image_features(pixel_values=pixels(part)).pooler_output
                for part in np.array_split(images, math.ceil(len(images) / 256))
            ]
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def read(rows: Ints) -> torch.Tensor:
        with torch.no_grad():
            embeds = model.get_text_features(**_tokens(tokenizer, rows)).pooler_output
        return torch.nn.functional.normalize(embeds, dim=-1)

    captions = world.held_out_captions(count, seed)
    rows = np.array([row_of(world.Scene.parse(caption)) for caption in captions])
    images = embed(world.render([scene_of(row) for row in rows], rng))
    right = (images * read(rows)).sum(1)
    swaps: dict[str, float] = {}
    for kind in SWAPS:
        wrong = swap(rows, kind, rng)
        differs = (code_of_rows(wrong) * code_of_rows(rows)).sum(1) < 0.99
        valid = ((wrong[:, [1, 2]] != wrong[:, [5, 6]]).any(1)) & differs
        wins = right[valid] > (images[valid] * read(wrong[valid])).sum(1)
        swaps[kind] = float(wins.float().mean())
    asked = rows[: count // GROUP].repeat(GROUP, axis=0)
    pictures = paint(asked, np.tile([0, 1, 2, 3], len(asked) // GROUP), rng)
    text = read(asked)
    score = (embed(pictures.images) * text).sum(1).view(-1, GROUP)
    goal = torch.from_numpy((pictures.codes * code_of_rows(asked)).sum(1)).view(-1, GROUP)
    gap, goal_gap = (x[:, :, None] - x[:, None, :] for x in (score, goal))
    return {
        "single": float(np.mean([swaps[k] for k in SWAPS if k not in ("axis", "exchange")])),
        "swaps": swaps,
        "pairs": float((gap[goal_gap > 0.03] > 0).float().mean()),
        "pairs_by_faults": float((gap.triu(1)[goal_gap.triu(1) > 0.03] > 0).float().mean()),
        "graded_correlation": float(np.corrcoef(score.flatten(), goal.flatten())[0, 1]),
    }
