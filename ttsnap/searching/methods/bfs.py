"""Breadth-first search: many trajectories at once, each has children in proportion to its score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from ttsnap.schedule import Check, Schedule
from ttsnap.searching.methods.base import Method, Steps
from ttsnap.searching.methods.particles import Particles, Weighing, evenly, looks, resample

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Bfs(Particles):
    """Breadth-first search over the noise of the steps (arXiv 2505.23614)."""

    children: Literal["resampled", "pruned"] = Field(
        "resampled",
        description="Whether a node may have several children, or one at most.",
    )
    steps: Steps | None = Field(
        None, description="Step indices at which the tree branches; null is four spread evenly."
    )


def bfs(run: Executor, options: Bfs) -> None:
    """Give every node of a level children by its score (arXiv 2505.23614).

    As many nodes start as the budget affords. At every level a node has, of as many children as
    there are nodes, the share exp(λ r), rounded to whole ones: those that are promising branch, by
    another noise of the step, and the worst end. Pruning keeps one of each that has any. Where
    nodes were saved, another search follows with what is left.

    Read: the abstract and the authors' repository, XiangchengZhang/Diffusion-inference-scaling.
    What differs: no local search by gradients; λ is the same at every level, per deviation of the
    reward.
    """
    steps = looks(run, options.steps, evenly(run.noisy))
    schedule = Schedule(tuple(Check(step, 1.0) for step in steps))
    draw = several if options.children == "resampled" else one
    weighing = Weighing(lambda history, final: history[-1], threshold=np.inf, draw=draw)
    while run.meter.affordable(schedule):
        resample(run, options, schedule, weighing)
        run.ledger.end_round()


def several(weights: np.ndarray, count: int, offset: float) -> np.ndarray:
    """Indices, ascending, each weight x count times to the nearest, no more than ``count``.

    Args:
        weights: (n,), summing to 1.
        count: children in all.
        offset: not used, for nothing is random.
    """
    return np.repeat(np.arange(len(weights)), np.rint(weights * count).astype(int))[:count]


def one(weights: np.ndarray, count: int, offset: float) -> np.ndarray:
    """The same, but none more than once."""
    return np.unique(several(weights, count, offset))


METHOD = Method(
    "bfs",
    "search a tree level by level, with more branches where estimates are good",
    bfs,
    Bfs,
    needs_noise=True,
)
