"""The books of a search: who was begun, what was seen of whom, who is better, and who won.

Candidates are compared here and nowhere else, by :func:`merit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.schedule import combine, keep_best
from ttsnap.searching.result import Candidate, Round, SearchResult

if TYPE_CHECKING:
    from ttsnap.searching.meter import Meter
    from ttsnap.searching.noise import Recipe
    from ttsnap.searching.task import SearchTask


class UnscoredError(UserError):
    """None of the final images of a prompt could be scored, as where a judge refuses it."""


def merit(values: np.ndarray) -> np.ndarray:
    """How good each of some candidates is among them: (n,), the higher the better.

    Ranks by the rewards are added up, equal scores sharing their mean rank. So who is at least as
    good by every reward and better by one is better, and equals are equal.

    Args:
        values: (R, n), scores by each reward. Where one is NaN, the candidate comes after all
            others: -inf.
    """
    failed = np.isnan(values).any(axis=0)
    result = np.full(values.shape[1], -np.inf)
    result[~failed] = combine(values[:, ~failed])
    return result


def best(values: np.ndarray, count: int) -> np.ndarray:
    """Indices (count,), ascending, of the best candidates by scores (R, n); ties to the lower."""
    return keep_best(merit(values), count)


def ordered(values: np.ndarray) -> list[int]:
    """Indices of the candidates with scores (R, n), the best first; those that failed left out."""
    merits = merit(values)
    order = np.argsort(-merits, kind="stable")
    return [int(i) for i in order if np.isfinite(merits[i])]


def standardised(values: np.ndarray) -> np.ndarray:
    """(n,): deviations from the mean (R, n), averaged over rewards; -inf where one is NaN.

    For methods that need a number rather than a rank, whatever scale the rewards have.
    """
    failed = np.isnan(values).any(axis=0)
    result = np.full(values.shape[1], -np.inf)
    if not failed.all():
        good = values[:, ~failed].astype(np.float64)
        result[~failed] = combine(good, [1 / len(good)] * len(good))
    return result


class Front:
    """Finals that no other one equals or beats by every reward: only they can win.

    Attributes:
        scores: of each by its index, (R,).
    """

    def __init__(self) -> None:
        self.scores: dict[int, np.ndarray] = {}

    def add(self, index: int, values: np.ndarray) -> None:
        """Take in a final, if it can win, in place of those that then cannot; of equals the first.

        Args:
            index: of the candidate.
            values: (R,), its scores.
        """
        if np.isnan(values).any():
            return
        for other, seen in self.scores.items():
            if (seen >= values).all() and ((seen > values).any() or other < index):
                return
        self.scores = {
            other: seen for other, seen in self.scores.items() if not (values >= seen).all()
        }
        self.scores[index] = values


class Ledger:
    """Candidates, final images and rounds of one search.

    Attributes:
        rewards: names of the rewards, no two alike.
        candidates: all that were begun.
        rounds: those that have ended.
    """

    def __init__(self, rewards: Sequence[str], keep_finals: bool = False) -> None:
        """
        Args:
            rewards: see above.
            keep_finals: whether to keep every final image, or only those that can still win.
        """
        self.rewards = tuple(rewards)
        self.candidates: list[Candidate] = []
        self.rounds: list[Round] = []
        self._keep_finals = keep_finals
        self._latest: dict[int, np.ndarray] = {}  # candidate -> scores (R,) at its latest look
        self._finals: dict[int, np.ndarray] = {}  # the same of its final image
        self._images: dict[int, np.ndarray] = {}
        self._front, self._round_front = Front(), Front()
        self._before = 0  # finals of earlier rounds
        self._seen: float | None = None
        self._top: float | None = None

    def begin(self, seed: int) -> int:
        """Enter a candidate from noise of its own; returns its index."""
        self.candidates.append(Candidate(seed, origin=f"seed {seed}"))
        return len(self.candidates) - 1

    def derive(self, parent: int, kind: str, number: int) -> int:
        """Enter a candidate that comes out of another; returns its index.

        Its seed follows from the other's, not from how many there are, so that it does not matter
        in which batches they are run.
        """
        seed = seed_of(self.candidates[parent].seed, kind, number)
        self.candidates.append(Candidate(seed, parent, f"{kind} of {parent}"))
        return len(self.candidates) - 1

    def record(
        self,
        step: int,
        who: Sequence[int],
        noises: Sequence[tuple[Recipe, ...]],
        values: np.ndarray,
        thumbnails: Sequence[np.ndarray],
        images: np.ndarray | None = None,
    ) -> None:
        """Write down what was seen of n candidates at a step.

        Args:
            step: index.
            who: the candidates.
            noises: of each, so far.
            values: (R, n), scores.
            thumbnails: of each, uint8 (h, w, 3).
            images: of the last step, the final images.
        """
        for row, index in enumerate(who):
            candidate = self.candidates[index]
            candidate.noises = noises[row]
            candidate.scores[step] = float(values[0, row])
            candidate.thumbnails[step] = thumbnails[row]
            self._latest[index] = values[:, row]
            if images is not None:
                self._finish(index, values[:, row], images[row])
        seen = values[0, ~np.isnan(values[0])]
        self._seen = float(seen.max()) if len(seen) else self._seen

    def _finish(self, index: int, values: np.ndarray, image: np.ndarray) -> None:
        self.candidates[index].rewards = dict(zip(self.rewards, map(float, values), strict=True))
        self._finals[index], self._images[index] = values, image
        if not np.isnan(values[0]):
            self._top = float(values[0] if self._top is None else max(values[0], self._top))
        if not self._keep_finals:
            self._front.add(index, values)
            self._round_front.add(index, values)
            useful = {*self._front.scores, *self._round_front.scores}
            self._images = {i: kept for i, kept in self._images.items() if i in useful}

    def drop(self, who: Sequence[int], step: int) -> None:
        """Write down that candidates were pruned by the look at a step."""
        for index in who:
            self.candidates[index].pruned_at = step

    @property
    def finished(self) -> list[int]:
        """Candidates with a final image, in order."""
        return sorted(self._finals)

    def final(self, index: int) -> np.ndarray:
        """Scores (R,) of a candidate's final image."""
        return self._finals[index]

    def latest(self, who: Sequence[int]) -> np.ndarray:
        """Scores (R, n) of candidates at their latest looks; NaN for those not seen yet."""
        unseen = np.full(len(self.rewards), np.nan)
        return np.stack([self._latest.get(index, unseen) for index in who], axis=1)

    def ranked(self, members: Sequence[int] | None = None) -> list[int]:
        """Finished candidates, or ``members`` of them, the best first.

        Those that could not be scored are left out.
        """
        finished = self.finished if members is None else sorted(members)
        if not finished:
            return []
        return [finished[i] for i in ordered(np.stack([self._finals[i] for i in finished], axis=1))]

    @property
    def top(self) -> float | None:
        """Highest score of a final by the first reward or, before the first, at the latest look."""
        return self._seen if self._top is None else self._top

    def end_round(self) -> None:
        """Close a round of the method, if anything finished in it."""
        members = list(self._finals)[self._before :]
        for winner in self.ranked(members)[:1]:
            candidate = self.candidates[winner]
            self.rounds.append(
                Round(
                    search_round=len(self.rounds) + 1,
                    num_noises=len(members),
                    best_noise_seed=candidate.seed,
                    best_score=candidate.rewards[self.rewards[0]],
                    choice_of_metric=self.rewards[0],
                    best=winner,
                    image=self._images[winner],
                )
            )
        self._before, self._round_front = len(self._finals), Front()

    def result(
        self, task: SearchTask, meter: Meter, planned: float, interrupted: bool
    ) -> SearchResult:
        """What was found.

        Raises:
            UnscoredError: no final image could be scored.
        """
        self.end_round()
        ranked = self.ranked()
        if not ranked:
            names = " and ".join(self.rewards)
            raise UnscoredError(
                f"none of {len(self._finals)} final images could be scored by {names}"
            )
        return SearchResult(
            method=task.method,
            prompt=task.prompt,
            negative_prompt=task.negative_prompt,
            generator=task.generator,
            model=task.model,
            rewards=self.rewards,
            options=task.options.model_dump(),
            budget=task.budget,
            planned=planned,
            spent=meter.spent,
            unit=meter.costs.unit,
            nfe=meter.evaluations,
            decodes=meter.decodes,
            scored=meter.scores,
            seconds=meter.seconds,
            interrupted=interrupted,
            winner=ranked[0],
            image=self._images[ranked[0]],
            candidates=self.candidates,
            rounds=self.rounds,
            finals=self._images if self._keep_finals else {},
            frame_rate=task.sampler.frame_rate,
        )
