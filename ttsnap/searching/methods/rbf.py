"""Rollover budget forcing: what one step of a trajectory does not need is left to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from ttsnap.searching.ledger import best
from ttsnap.searching.methods.base import Method, MethodOptions, Steps
from ttsnap.searching.methods.particles import looks
from ttsnap.searching.methods.trying import trajectories

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Rbf(MethodOptions):
    """Rollover budget forcing (arXiv 2503.19385)."""

    initial: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the budget for initial noises, the best of which is taken.",
    )
    steps: Steps | None = Field(
        None, description="Step indices of the looks; null is every step whose noise has an effect."
    )


def rbf(run: Executor, options: Rbf) -> None:
    """Try noises at every step until one is better than all before (arXiv 2503.19385).

    The best of a few initial noises is taken. Every step then has the same quota of noises to try.
    As soon as an estimate is better than any that the trajectory went on from, it goes on, and what
    is left of the quota is added to that of the next step; if none is, the best of the step is
    taken. All that is left is spent at the last step.

    Read: the abstract and the authors' repository, KAIST-Visual-AI-Group/Flow-Inference-Time-
    Scaling. What differs: quotas count all that a try costs, its look too, and the sampler is the
    family's own with noise, not a converted one.
    """
    steps = looks(run, options.steps, run.noisy)
    trajectories(run, steps, lambda: Rollover(run, options, steps))


@dataclass
class Rollover:
    """When to go on, of one trajectory.

    Attributes:
        run: the search.
        options: of the method.
        steps: of the looks.
        quota: of every step; 0 until it is known.
        left_over: of the step before.
        bar: scores (R, 1) that a try must beat.
    """

    run: Executor
    options: Rbf
    steps: list[int]
    quota: int = 0
    left_over: int = 0
    bar: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))

    def __call__(self, level: int, tried: np.ndarray) -> bool:
        """Whether to go on from a level, after the scores (R, n) of what was tried there."""
        number = tried.shape[1]
        price, *rest = self.run.meter.costs.prices(self.steps)
        if level == 0:
            if (number + 1) * price <= self.options.initial * self.run.task.budget:
                return False
            self.quota = max(1, self.run.meter.count(sum(rest)))
            self.bar = tried[:, best(tried, 1)]
            return True
        if level == len(self.steps):
            return False
        quota = self.quota + self.left_over
        rivals = np.concatenate([self.bar, tried[:, -1:]], axis=1)
        better = best(rivals, 1)[0] == 1
        if better:
            self.bar = tried[:, -1:]
        if better or number == quota:
            self.left_over = quota - number
            return True
        return False


METHOD = Method(
    "rbf",
    "try noises at every step until one is better; what is spared serves the next step",
    rbf,
    Rbf,
    needs_noise=True,
)
