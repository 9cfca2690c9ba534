"""Sequential Monte Carlo over the noise of the steps: Feynman-Kac steering."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ttsnap.prompts import seed_of
from ttsnap.schedule import Check, Schedule
from ttsnap.searching.engine import Run, check_looks, standardised
from ttsnap.searching.methods.pruning import begin

if TYPE_CHECKING:
    from ttsnap.searching.methods import Smc

RESAMPLINGS = 4


def smc(run: Run, options: Smc) -> None:
    """Resample particles in proportion to their weights (arXiv 2501.06848, algorithm 1).

    There are as many particles as the budget affords. Scores are standardised among the particles
    at each look, because rewards have all kinds of scales; of several rewards the mean is taken.
    """
    steps = check_looks(options.steps or evenly(run.sampler.steps), run)
    schedule = Schedule(tuple(Check(step, 1.0) for step in steps))
    count = run.meter.affordable(schedule)
    run.planned += run.meter.costs.cost(count, schedule)
    run.message = "particles"
    group, values = begin(run, schedule, count)
    count = len(group)
    before = np.zeros(count)  # of each particle: its score at the last look, or its best so far
    for i, following in enumerate([*steps[1:], run.last]):
        scores = standardised(values)
        if options.potential == "max":
            before = np.maximum(before, scores) if i else scores
            weights = softmax(before, options.strength, np.isfinite(scores))
        else:
            weights = softmax(scores - before, options.strength, np.isfinite(scores))
            before = np.where(np.isfinite(scores), scores, 0.0)
        prices = run.meter.costs.prices(steps)[i + 1 :]
        while count > 1 and not run.meter.affords(count * sum(prices)):
            count -= 1
        offset = seed_of(run.candidates[0].seed, "resampling", steps[i]) / 2**63
        parents = systematic(weights, count, offset)
        run.drop(group, parents)
        before = before[parents]
        group, values = run.reach(run.branch(group, parents), following)


def evenly(steps: int) -> list[int]:
    """The default looks: four, or fewer if there are not as many steps between first and last."""
    places = np.linspace(0, steps - 1, RESAMPLINGS + 2)[1:-1]
    return sorted({int(step) for step in places.round() if step < steps - 1})


def softmax(gains: np.ndarray, strength: float, alive: np.ndarray) -> np.ndarray:
    """Weights (n,) that sum to 1, none for those that are not ``alive``; all equal if none is."""
    if not alive.any():
        return np.full(len(gains), 1 / len(gains))
    weights = np.zeros(len(gains))
    weights[alive] = np.exp(strength * (gains[alive] - gains[alive].max()))
    return weights / weights.sum()


def systematic(weights: np.ndarray, count: int, offset: float) -> np.ndarray:
    """Indices (count,), ascending, each drawn weight x count times to the next integers.

    Systematic resampling (Kitagawa 1996, appendix): one draw decides all. With equal weights and
    as many drawn, every index comes once.

    Args:
        weights: (n,), summing to 1.
        count: how many to draw.
        offset: the draw, uniform in [0, 1).
    """
    positions = (offset + np.arange(count)) / count
    return np.searchsorted(np.cumsum(weights), positions, side="right").clip(max=len(weights) - 1)
