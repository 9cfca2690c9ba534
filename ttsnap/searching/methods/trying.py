"""One trajectory that tries noise after noise before it goes on: what depth-first methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from ttsnap.schedule import Check
from ttsnap.searching.ledger import best
from ttsnap.searching.methods.base import MethodOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ttsnap.searching.executor import Cohort, Executor

Enough = Callable[[int, np.ndarray], bool]
"""Of a level and the scores (R, n) of all that was tried there, in order: whether to go on."""


class Threshold(MethodOptions):
    """What a score must be for a trajectory to go on."""

    threshold: float | None = Field(
        None, description="Score that passes, by every reward; null follows from share."
    )
    share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Without a threshold, what passes is among this share of the best that the "
        "search has seen at that step.",
    )

    def passes(self, seen: np.ndarray) -> bool:
        """Whether the latest of all scores (R, n) that looks at a step have seen passes.

        Without a threshold the first one does, unless it could not be scored.
        """
        latest, n = seen[:, -1], seen.shape[1]
        if self.threshold is not None:
            return bool((latest >= self.threshold).all())
        return not np.isnan(latest).any() and n - 1 in best(seen, Check(0, self.share).survivors(n))


class Gate:
    """Lets pass what is good enough among all that a search has seen at a level."""

    def __init__(self, options: Threshold) -> None:
        self._options = options
        self._seen: dict[int, np.ndarray] = {}

    def __call__(self, level: int, tried: np.ndarray) -> bool:
        """Whether the latest of what was tried at a level, (R, n), passes."""
        seen = self._seen.get(level, tried[:, :0])
        self._seen[level] = np.concatenate([seen, tried[:, -1:]], axis=1)
        return self._options.passes(self._seen[level])


def trajectories(run: Executor, steps: Sequence[int], begin: Callable[[], Enough]) -> None:
    """Go down one trajectory after the other until the budget is spent.

    Where it does not pay for all looks of a trajectory, a plain one follows.

    Args:
        run: the search.
        steps: indices of the looks before the last, at noisy steps.
        begin: called before each trajectory, for what decides when it goes on.
    """
    run.meter.affordable()
    while run.meter.affords(run.meter.costs.cost(1)):
        if run.meter.affords(sum(run.meter.costs.prices(steps))):
            descend(run, steps, begin())
        else:
            run.planned += run.meter.costs.cost(1)
            run.alive = 1
            run.reach(run.start(1), run.last)
        run.ledger.end_round()


def descend(run: Executor, steps: Sequence[int], enough: Enough) -> None:
    """One trajectory from look to look, the best of what is tried before each.

    Level 0 tries initial noises, looked at in the first of ``steps``; each level after it tries
    noises of the step where the look before was, as far as the next look, and the last level final
    images. Each is tried until ``enough`` says so, or until what is left only just pays for the
    rest of the way.
    """
    above: Cohort | None = None
    for level, look in enumerate([*steps, run.last]):
        run.message = f"noise of step {steps[level - 1] + 1}" if level else "initial noise"
        tried: list[Cohort] = []
        values = np.zeros((len(run.task.rewards), 0))
        while True:
            price, *rest = run.meter.costs.prices(steps)[level:]
            if tried and not run.meter.affords(price + sum(rest)):
                break
            run.planned += price
            run.alive = 1
            begun = run.step(run.branch(above, [0], len(tried))) if above else run.start(1)
            cohort, seen = run.reach(begun, look)
            tried.append(cohort)
            values = np.concatenate([values, seen], axis=1)
            if enough(level, values):
                break
        if level < len(steps):
            cohort = run.concat(tried)
            kept = best(values, 1)
            run.drop(cohort, kept)
            above = run.select(cohort, kept)
