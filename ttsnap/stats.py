"""Statistics over prompts: means with bootstrap intervals, and rank correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 500
_PAIRS_AT_ONCE = 4_000_000


def mean_interval(
    values: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Mean over prompts with its percentile bootstrap interval.

    All columns share the draws of prompts, so that one seed gives one answer for a column whether
    it is asked for alone or among others.

    Args:
        values: (P,) or (P, K), one row per prompt.
        level: coverage of the interval, in (0, 1).
        draws: bootstrap samples of P prompts.
        seed: of the draws.

    Returns:
        Mean, low and high, float64, each of shape () or (K,).
    """
    values = np.asarray(values, np.float64)
    prompts = len(values)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, draws - start)
        drawn = rng.integers(prompts, size=(count, prompts)) + prompts * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * prompts).reshape(count, prompts)
        means.append(times @ values / prompts)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail), axis=0)
    return values.mean(axis=0), low, high


def kendall_tau_rows(first: ArrayLike, second: ArrayLike) -> Floats:
    """Kendall's τ-b along the last axis.

    Args:
        first, second: (..., N), of shapes that broadcast.

    Returns:
        (...) float64; NaN where one side consists of ties alone, as in `scipy.stats.kendalltau`.
    """
    first, second = np.broadcast_arrays(first, second)
    shape, count = first.shape[:-1], first.shape[-1]
    left, right = np.triu_indices(count, k=1)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(left)))
    first, second = first.reshape(-1, count), second.reshape(-1, count)
    tau = np.empty(len(first))
    for start in range(0, len(first), rows):
        part = slice(start, start + rows)
        a, b = (_order(values[part], left, right) for values in (first, second))
        agreement = np.einsum("rp,rp->r", a, b, dtype=np.float64)
        untied = np.count_nonzero(a, axis=1) * np.count_nonzero(b, axis=1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            tau[part] = agreement / np.sqrt(untied)
    return tau.reshape(shape)


def _order(
    values: NDArray[Any], left: NDArray[np.intp], right: NDArray[np.intp]
) -> NDArray[np.int8]:
    """Which of each pair is larger: 1 the right one, -1 the left one, 0 neither."""
    a, b = values[:, left], values[:, right]
    return (b > a).astype(np.int8) - (b < a).astype(np.int8)
