"""Pictures whose captions are wrong in part, as many captions of the web's pictures are.

A generator that learns from them errs as large ones do: now and then it turns a relation round,
exchanges colours between things, leaves a thing out or adds one. The seed decides that, and early.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ttsnap.shapes import world
from ttsnap.shapes.world import COLORS, RELATIONS, Placed, Scene

CAPTION_NOISE = 0.6
"""Share of misled captions in the last phase of the shipped generator's training."""

FAULTS = ("relation", "colors", "color", "sizes", "missing", "extra")
"""What a caption gets wrong: the relation is the reverse, the things' colours are exchanged, one
thing has another colour, the sizes are exchanged; a thing of the caption is not in the picture, or
a third is."""


def mislead(scene: Scene, fault: str, rng: np.random.Generator) -> tuple[Scene, list[Placed]]:
    """A caption that describes a picture wrongly, and what the picture shows.

    Args:
        scene: what the caption would be if it were right.
        fault: one of ``FAULTS``.
        rng: source of everything random.

    Returns:
        What the caption says, and the things that lie in the picture.

    Raises:
        ValueError: the scene cannot be described with this fault, or only by a caption that is held
            out of training.
    """
    placed = list(world.arrange(scene, rng))
    first, second = scene.first, scene.second
    if fault == "relation":
        said = replace(scene, relation=RELATIONS[RELATIONS.index(scene.relation) ^ 1])
    elif fault == "colors":
        said = replace(
            scene,
            first=replace(first, color=second.color),
            second=replace(second, color=first.color),
        )
    elif fault == "color":
        name = ("first", "second")[rng.integers(2)]
        said = replace(
            scene, **{name: replace(getattr(scene, name), color=str(rng.choice(COLORS)))}
        )
    elif fault == "sizes":
        said = replace(
            scene, first=replace(first, size=second.size), second=replace(second, size=first.size)
        )
    else:
        said = scene
        if fault == "missing":
            del placed[rng.integers(2)]
        else:
            placed.append(_beside(placed, rng))
    if (said == scene) == (fault not in ("missing", "extra")) or world.held_out(said.caption):
        raise ValueError(f"{scene.caption!r} cannot be told with the fault {fault!r}")
    return said, placed


def _beside(placed: list[Placed], rng: np.random.Generator) -> Placed:
    """One more small thing where there is room for it.

    Raises:
        ValueError: there is none.
    """
    thing = replace(world.sample_scene(rng).first, size="small")
    radius = world.RADII["small"] - world.RADIUS_JITTER
    for _ in range(20):
        x, y = rng.uniform(radius + 0.7, world.RESOLUTION - radius - 0.7, 2)
        if all(np.hypot(x - p.x, y - p.y) > radius + p.radius for p in placed):
            return Placed(thing, float(x), float(y), radius)
    raise ValueError("no room for a third thing")
