"""Replaying a pruning schedule on stored rewards: once, or over many random subsets at a time.

Many subsets at a time are one bit each. Sixty-four draws share a machine word, an image of the pool
is a row of words that says in which draws it is alive, and a check walks the rows from the best
image to the worst and lets each live bit pass until its draw has kept as many as it may. The counts
of the draws are binary numbers that lie across words, one word per digit. A few bitwise operations
per image of the pool thus prune all draws of all prompts, however many candidates they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ttsnap.schedule import Schedule, keep_best

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

WORD = 64  # draws that share a word
BLOCK = 16  # words worked on at once: bounds memory
ALL = ~np.uint64(0)


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


class Subsets:
    """Random subsets of every prompt's pool, a bit per draw.

    They depend on the pool's shape, ``draws`` and ``seed`` alone, and a larger subset extends the
    smaller one, so that schedules, rewards and sizes are compared on common random numbers. A draw
    is one random order of the places in a pool, and which image has which place is random for every
    prompt: that makes the subsets of two prompts as good as independent, and is soon done.

    Args:
        prompts: P.
        pool: I, images per prompt.
        draws: subsets per prompt, rounded up to a multiple of 64, or of 1,024 if there are more.
        seed: of the subsets.

    Attributes:
        rows: (I, P), the place of each image.
    """

    def __init__(self, prompts: int, pool: int, draws: int, seed: int) -> None:
        self.prompts, self.pool = prompts, pool
        self.words = min(BLOCK, -(-draws // WORD))
        together = self.words * WORD
        blocks = -(-draws // together)
        self.draws = blocks * together
        rng = np.random.default_rng(seed)
        ordered = np.arange(pool)
        self.rows = rng.permuted(np.broadcast_to(ordered, (prompts, pool)), axis=1).T
        # In which order the places are drawn, a binary digit after the other, inverted.
        self._digits = np.empty((blocks, pool.bit_length(), pool, self.words), np.uint64)
        for block in self._digits:
            turns = rng.permuted(np.broadcast_to(ordered, (together, pool)), axis=1).T
            for digit, plane in enumerate(block):
                bits = np.packbits(turns >> digit & 1, axis=1, bitorder="little")
                plane[:] = ~bits.view(np.uint64)

    def of(self, size: int) -> Iterator[Words]:
        """Blocks (I, words) by place: in which draws it is among the first ``size``."""
        for block in self._digits:
            below = np.zeros_like(block[0])  # is the turn below the size, by the digits so far
            for digit, inverted in enumerate(block):
                join = np.bitwise_or if size >> digit & 1 else np.bitwise_and
                join(below, inverted, below)
            yield below

    def members(self, size: int) -> Iterator[np.ndarray]:
        """The same by prompt, as image indices (64, P, size), 64 draws at a time."""
        for drawn in self.of(size):
            for word in drawn.T:
                octets = np.ascontiguousarray(word).view(np.uint8).reshape(-1, WORD // 8)
                bits = np.unpackbits(octets, axis=1, bitorder="little")
                by_draw = bits[self.rows].transpose(2, 1, 0)
                yield np.nonzero(by_draw)[2].reshape(WORD, self.prompts, size)


@dataclass(frozen=True)
class Estimate:
    """Final reward over random subsets.

    Attributes:
        mean: (P,) float64.
        variance: (P,) float64, of a single draw.
        draws: subsets behind both.
    """

    mean: Floats
    variance: Floats
    draws: int

    @property
    def error(self) -> float:
        """Monte Carlo standard error of the mean over prompts."""
        return float(np.sqrt(self.variance.sum() / self.draws) / len(self.mean))


class Pool:
    """The rewards of every prompt's pool, ready to be searched many times.

    Equal rewards are ordered as in the pool. Not for several threads at once.

    Args:
        scores: (P, I, S) rewards that prune; NaN at steps that no schedule checks.
        final: (P, I) rewards that pick the winner.
        subsets: of pools of that shape.
        values: (P, I) what is reported of the winner, if not the reward that picked it.
    """

    def __init__(
        self,
        scores: np.ndarray,
        final: np.ndarray,
        subsets: Subsets,
        values: np.ndarray | None = None,
    ) -> None:
        self.subsets = subsets
        self._ranking = cache(lambda step: _ranking(scores[:, :, step]))
        self._last, _ = _ranking(final)
        reported = final if values is None else values
        values = np.take_along_axis(reported.T.astype(np.float64), self._last, axis=0)
        self._best = values[0]
        self._loss = self._best - values  # from the best, so that equal rewards come out exactly
        self._buffers = np.empty((2, final.size, subsets.words), np.uint64)

    def search(self, steps: Sequence[int], counts: Sequence[int]) -> Estimate:
        """Draw ``counts[0]`` candidates, keep ``counts[1]``, … at ``steps``, and take the best.

        Args:
            steps: of the checks.
            counts: candidates alive, first those drawn, at most I, then after each check.
        """
        checks = [
            (*self._ranking(step), after)
            for step, before, after in zip(steps, counts, counts[1:], strict=False)
            if after < before
        ]
        prompts = self.subsets.prompts
        wins = np.zeros(self._loss.shape)
        for alive in self.subsets.of(counts[0]):
            where = self.subsets.rows
            here, there = self._buffers
            for order, places, count in checks:
                _keep_first(alive, np.take_along_axis(where, order, axis=0), count, here)
                alive, where = here, places * prompts + np.arange(prompts)
                here, there = there, here
            _keep_first(alive, np.take_along_axis(where, self._last, axis=0), 1, here)
            wins += np.bitwise_count(here).sum(axis=1, dtype=np.float64).reshape(wins.shape)
        share = wins / self.subsets.draws
        loss = (share * self._loss).sum(axis=0)
        square = (share * self._loss**2).sum(axis=0)
        return Estimate(self._best - loss, np.maximum(square - loss**2, 0), self.subsets.draws)


def _ranking(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (I, P) of each prompt from the highest of ``values`` (P, I) down, and their places."""
    order = np.argsort(-values.T, axis=0, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(len(order))[:, None], axis=0)
    return order, places


def _keep_first(alive: Words, order: np.ndarray, count: int, kept: Words) -> None:
    """In every draw keep the first ``count`` candidates.

    Args:
        alive: (rows, words), in which draws each takes part.
        order: (I, P) rows of ``alive`` from the first image of each prompt to the last.
        count: at least 1.
        kept: (I x P, words) to be filled, in that order.
    """
    np.take(alive, order.ravel(), axis=0, out=kept, mode="clip")
    rows = kept.reshape(len(order), -1)
    # The digits of a count that starts so that the last candidate to be kept overflows it.
    digits = (count - 1).bit_length()
    start = 2**digits - count
    planes = [np.full_like(rows[0], ALL if start >> digit & 1 else 0) for digit in range(digits)]
    room = np.full_like(rows[0], ALL)
    spare, other = np.empty_like(room), np.empty_like(room)
    both, either_one = np.bitwise_and, np.bitwise_xor
    for place, row in enumerate(rows):
        both(row, room, row)
        carry = row
        for plane in planes:
            both(plane, carry, spare)
            either_one(plane, carry, plane)
            carry = spare
            spare, other = other, spare
        either_one(room, carry, room)  # a carry out of the last digit is the last one to be kept
        if place % 8 == 7 and not room.any():
            rows[place + 1 :] = 0
            break
