"""Replaying a pruning schedule on stored rewards: once, or over many random subsets at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from ttsnap.schedule import Schedule, keep_best

CHUNK = 2**21  # indices held at once: bounds memory, does not change results


@dataclass(frozen=True)
class Replay:
    """What a schedule kept.

    Attributes:
        survivors: candidate positions left after each check, ascending.
        winner: position of the candidate with the best final reward among the last survivors.
    """

    survivors: list[np.ndarray]
    winner: int


def replay(scores: np.ndarray, final: np.ndarray, schedule: Schedule) -> Replay:
    """Run ``schedule`` on the rewards of one prompt's candidates.

    Args:
        scores: (n, S) reward of each candidate's Tweedie estimate at each step.
        final: (n,) reward of the final image, which picks the winner.
        schedule: the checks.
    """
    alive = np.arange(len(final))
    survivors = []
    for check in schedule.checks:
        kept = keep_best(scores[alive, check.step], check.survivors(len(alive)))
        alive = alive[kept]
        survivors.append(alive)
    return Replay(survivors, int(alive[keep_best(final[alive], 1)[0]]))


def expected_reward(
    scores: np.ndarray,
    final: np.ndarray,
    schedule: Schedule,
    sizes: Sequence[int],
    draws: int,
    seed: int,
) -> np.ndarray:
    """Mean final reward of :func:`replay` over random subsets of each prompt's pool.

    The subsets depend on the pool's shape and ``seed`` alone, and a larger size extends the
    smaller one, so that schedules, rewards and sizes are compared on common random numbers.

    Args:
        scores: (P, I, S) rewards that prune.
        final: (P, I) rewards that pick the winner and are reported.
        schedule: the checks.
        sizes: candidates drawn, each at most I.
        draws: subsets per prompt and size.
        seed: of the subsets.

    Returns:
        (P, len(sizes)) float64.
    """
    prompts, pool = final.shape
    ranks = [
        # Equal rewards share a rank: their order is that of the draw, as in keep_best.
        rankdata(-scores[:, :, check.step], method="dense", axis=1).astype(np.int32).ravel()
        for check in schedule.checks
    ]
    values = final.astype(np.float64).ravel()
    total = np.zeros((prompts, len(sizes)))
    for subsets in _permutations(prompts, pool, max(sizes), draws, seed):
        for column, size in enumerate(sizes):
            alive = _prune(subsets[:, :, :size], ranks, schedule)
            total[:, column] += values.take(alive).max(axis=2).sum(axis=0)
    return total / draws


def _permutations(
    prompts: int, pool: int, size: int, draws: int, seed: int
) -> Iterator[np.ndarray]:
    """Chunks (draws, P, size) of random subsets in random order, as indices into a flat (P x I)."""
    rng = np.random.default_rng(seed)
    ordered = np.arange(prompts * pool).reshape(1, prompts, pool)
    chunk = max(1, CHUNK // ordered.size)
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        rows = np.broadcast_to(ordered, (count, prompts, pool))
        yield np.ascontiguousarray(rng.permuted(rows, axis=2)[:, :, :size])


def _prune(subsets: np.ndarray, ranks: list[np.ndarray], schedule: Schedule) -> np.ndarray:
    """Indices (draws, P, survivors) left of ``subsets`` (draws, P, n), in no particular order."""
    size = subsets.shape[2]
    alive, position = subsets, np.arange(size, dtype=np.int32)
    for check, rank in zip(schedule.checks, ranks, strict=True):
        keep = check.survivors(alive.shape[2])
        if keep == alive.shape[2]:
            continue
        # One integer orders by reward, then by position in the draw, and carries the position.
        key = rank.take(alive) * np.int32(size) + position
        position = np.partition(key, keep - 1, axis=2)[:, :, :keep] % np.int32(size)
        alive = np.take_along_axis(subsets, position, axis=2)
    return alive
