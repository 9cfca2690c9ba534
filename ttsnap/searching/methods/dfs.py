"""Depth-first search: down one trajectory, back to the level before where an estimate is poor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from ttsnap.searching.methods.base import Method, Steps
from ttsnap.searching.methods.particles import evenly, looks
from ttsnap.searching.methods.trying import Enough, Gate, Threshold, trajectories

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor

LEVELS = 3


class Dfs(Threshold):
    """Depth-first search over the noise of the steps (arXiv 2505.23614)."""

    backtracks: int = Field(
        4, ge=0, description="Times that a trajectory may go back to the level before."
    )
    steps: Steps | None = Field(
        None, description="Step indices of the levels; null is three spread evenly."
    )


def dfs(run: Executor, options: Dfs) -> None:
    """Go deeper while estimates pass, back up where one does not (arXiv 2505.23614).

    At every level the estimate is looked at. If it does not pass the threshold, the search goes
    back to the level before and branches there by another noise, from the first level to another
    initial noise. Once a trajectory has gone back as often as it may, the best that was seen at
    the level goes on. When it is finished, another one follows, until the budget is spent.

    Read: the abstract and the authors' repository, XiangchengZhang/Diffusion-inference-scaling.
    What differs: going back takes up the state that was at the level before, in place of one that
    is noised anew, which saves its evaluation; there is no local search by gradients; and unless a
    threshold is given, it follows from the scores seen at the level.
    """
    steps = looks(run, options.steps, evenly(run.noisy, LEVELS))
    gate = Gate(options)

    def begin() -> Enough:
        left = options.backtracks

        def enough(level: int, tried: np.ndarray) -> bool:
            nonlocal left
            if level == len(steps) or gate(level, tried) or not left:
                return True
            left -= 1
            return False

        return enough

    trajectories(run, steps, begin)


METHOD = Method(
    "dfs",
    "follow one trajectory, go back to the level before where an estimate is poor",
    dfs,
    Dfs,
    needs_noise=True,
)
