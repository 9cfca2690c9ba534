"""Sequential Monte Carlo over the noise of the steps: Feynman-Kac steering."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from ttsnap.schedule import Check, Schedule
from ttsnap.searching.methods.base import Method, Steps
from ttsnap.searching.methods.particles import Particles, Weighing, evenly, gain, looks, sample

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor

Potential = Literal["difference", "max", "sum"]


class Smc(Particles):
    """Sequential Monte Carlo: Feynman-Kac steering (arXiv 2501.06848)."""

    potential: Potential = Field(
        "difference",
        description="What weighs a particle: its gain since the last look, its best so far, or the "
        "sum of its looks.",
    )
    steps: Steps | None = Field(
        None, description="Step indices of the resampling; null is four spread evenly."
    )


def smc(run: Executor, options: Smc) -> None:
    """Resample particles in proportion to their weights (arXiv 2501.06848, algorithm 1).

    There are as many particles as the budget affords. Of several rewards the mean of λ r is taken.
    The best final image wins; the weights that the finals would be sampled with are recorded.
    """
    steps = looks(run, options.steps, evenly(run.noisy))
    schedule = Schedule(tuple(Check(step, 1.0) for step in steps))
    sample(run, options, schedule, Weighing(partial(log_potential, options.potential)))


def log_potential(kind: Potential, history: np.ndarray, final: bool = False) -> np.ndarray:
    """log G_k (n,) of each particle at its latest look (arXiv 2501.06848, section 3).

    Over all looks of a trajectory, the final image among them, they add up to λ r of the final
    image whichever kind it is: differences telescope, and for the others the last potential takes
    back what the earlier ones gave.

    Args:
        kind: which potential.
        history: (k, n), λ r at each look so far; before the first, r counts as 0.
        final: whether the latest look is at the final image.
    """
    if kind == "difference":
        return gain(history)
    if final:
        earlier = sum(
            (log_potential(kind, history[:k]) for k in range(1, len(history))),
            np.zeros(history.shape[1]),
        )
        return history[-1] - earlier
    summed: np.ndarray = history.max(axis=0) if kind == "max" else history.sum(axis=0)
    return summed


METHOD = Method(
    "smc", "resample candidates in proportion to their weights", smc, Smc, needs_noise=True
)
