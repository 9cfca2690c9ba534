"""Searching for several rewards at once: survivors and winner by what they add up to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttsnap.schedule import combine
from ttsnap.simulation.montecarlo import Estimate, Subsets


def search_jointly(
    scores: Sequence[np.ndarray],
    finals: Sequence[np.ndarray],
    subsets: Subsets,
    steps: Sequence[int],
    counts: Sequence[int],
    weights: Sequence[float] | None = None,
) -> list[Estimate]:
    """As :meth:`Pool.search`, with the best combination of all rewards kept and taken.

    Args:
        scores: of each reward, (P, I, S), what prunes.
        finals: of each reward, (P, I), what picks the winner and is reported.
        subsets: of pools of that shape.
        steps: of the checks.
        counts: candidates alive, first those drawn, then after each check.
        weights: see :func:`combine`.

    Returns:
        One estimate per reward.
    """
    looks = [np.stack([values[:, :, step] for values in scores]) for step in steps]
    last = np.stack(finals)
    prompts = np.arange(subsets.prompts)[:, None]
    total = np.zeros((len(finals), subsets.prompts))
    square = np.zeros_like(total)
    for alive in subsets.members(counts[0]):
        for values, count in zip(looks, counts[1:], strict=True):
            if count < alive.shape[2]:
                summed = combine(values[:, prompts, alive], weights)
                kept = np.argsort(-summed, axis=2, kind="stable")[:, :, :count]
                alive = np.take_along_axis(alive, np.sort(kept, axis=2), axis=2)
        summed = combine(last[:, prompts, alive], weights)
        winner = np.take_along_axis(alive, summed.argmax(axis=2)[:, :, None], axis=2)
        found = last[:, prompts, winner][..., 0].astype(np.float64)
        total += found.sum(axis=1)
        square += (found**2).sum(axis=1)
    means = total / subsets.draws
    variances = np.maximum(square / subsets.draws - means**2, 0)
    return [
        Estimate(mean, variance, subsets.draws)
        for mean, variance in zip(means, variances, strict=True)
    ]
