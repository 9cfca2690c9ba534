"""Best-of-N without sampling: the expected maximum of a random subset, by order statistics."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln


def expected_best(rewards: np.ndarray, n: int) -> np.ndarray:
    """Expected highest reward of ``n`` images drawn without replacement from each prompt's pool.

    The i-th smallest of I rewards is the maximum of C(i-1, n-1) of the C(I, n) subsets.

    Args:
        rewards: (P, I), the final rewards of each prompt's pool.
        n: subset size, 1 <= n <= I.

    Returns:
        (P,) float64.
    """
    size = rewards.shape[1]
    i = np.arange(n, size + 1)  # the n-1 smallest are never the maximum
    log_weight = (gammaln(i) - gammaln(n) - gammaln(i - n + 1)) - (
        gammaln(size + 1) - gammaln(n + 1) - gammaln(size - n + 1)
    )
    ordered = np.sort(rewards.astype(np.float64), axis=1)[:, n - 1 :]
    best = ordered[:, -1]  # as a loss from the best, so that equal rewards come out exactly
    expected: np.ndarray = best - (best[:, None] - ordered) @ np.exp(log_weight)
    return expected
