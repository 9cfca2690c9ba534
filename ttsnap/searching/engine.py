"""What all methods share: denoise candidates in batches, look at them, charge, keep the books."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ttsnap.diffusion.backoff import Backoff
from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.rewards.frames import score_frames
from ttsnap.schedule import combine, keep_best
from ttsnap.searching.noise import NoiseSource, Recipe, move_of, step_seed
from ttsnap.searching.result import Candidate, Round, SearchResult, thumbnail
from ttsnap.searching.task import Progress, Task

if TYPE_CHECKING:
    from ttsnap.config import Settings
    from ttsnap.diffusion.sampler import State


@dataclass(frozen=True, eq=False)
class Group:
    """Candidates before the same step, one a row; a value that no step changes.

    Attributes:
        state: of the sampler.
        who: index of the candidate in each row; branches of one may fill several.
        noises: what each row's candidate is made of so far, as :class:`Candidate` keeps it.
    """

    state: State
    who: tuple[int, ...]
    noises: tuple[tuple[Recipe, ...], ...]

    def __len__(self) -> int:
        return len(self.who)

    @property
    def evaluated(self) -> bool:
        """Whether the denoiser was asked about ``state``."""
        return self.state.output is not None


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of the rows of a group.

    Attributes:
        step: index of the step whose estimates they are.
        values: float32 (R, n), scores by each reward, or its verifier for this step.
        images: uint8 (n, H, W, 3), or videos (n, F, H, W, 3).
    """

    step: int
    values: np.ndarray
    images: np.ndarray


class Interrupted(Exception):
    """The search was cancelled before ``group`` was evaluated."""

    def __init__(self, group: Group) -> None:
        self.group = group


def merit(values: np.ndarray) -> np.ndarray:
    """How good each of some candidates is among them: (n,), the higher the better.

    Args:
        values: (R, n), scores by each reward. Ranks are added up; where a score is NaN, the
            candidate comes after all others.
    """
    failed = np.isnan(values).any(axis=0)
    return combine(np.where(failed, -np.inf, values))


def standardised(values: np.ndarray) -> np.ndarray:
    """(n,): deviations from the mean (R, n), averaged over rewards; -inf where one is NaN.

    For methods that need a number rather than a rank, whatever scale the rewards have.
    """
    failed = np.isnan(values).any(axis=0)
    if failed.all():
        return np.full(values.shape[1], -np.inf)
    good = values[:, ~failed].astype(np.float64)
    result = np.full(values.shape[1], -np.inf)
    result[~failed] = combine(good, [1 / len(good)] * len(good))
    return result


def check_looks(steps: Iterable[int], run: Run, first: int = 0) -> list[int]:
    """The looks that a method was asked to take, in order.

    Raises:
        UserError: one is before step ``first``, or not before the last step.
    """
    looks = sorted(set(steps))
    for step in looks:
        if not first <= step < run.last:
            raise UserError(
                f"method {run.method}: steps: {step} is no step from {first} to {run.last - 1}"
            )
    return looks


def _decode_some(
    decode: Callable[[torch.Tensor], np.ndarray], estimates: torch.Tensor, rows: range
) -> np.ndarray:
    return decode(estimates[rows.start : rows.stop])


class Run:
    """One search: what a method does goes through it, is charged and recorded.

    Attributes:
        task: what to search for.
        meter: what was spent.
        candidates: all that were begun.
        rounds: those that have ended.
        planned: cost of all that was begun, as foreseen.
        alive: candidates that the method has not dropped, for those who watch.
        message: what it is doing, for the same.
    """

    def __init__(self, task: Task, method: str, options: Settings) -> None:
        self.task, self.method, self.options = task, method, options
        self.sampler = task.sampler
        self.meter = task.meter()
        self.candidates: list[Candidate] = []
        self.rounds: list[Round] = []
        self.planned = 0.0
        self.alive = 0
        self.message = ""
        self.interrupted = False
        # Batches are as small as they should be; only memory can make them smaller.
        self._evaluations, self._decodes = Backoff(sys.maxsize), Backoff(sys.maxsize)
        self._noise = NoiseSource(self.sampler, move_of(options))
        self._drawn = 0  # seeds of the task
        self._seen: float | None = None
        self._finals: dict[int, np.ndarray] = {}  # candidate -> scores (R,)
        self._images: dict[int, np.ndarray] = {}  # of finals that can still win something
        self._before = 0  # finals of earlier rounds

    @property
    def last(self) -> int:
        """Index of the last step."""
        return self.sampler.steps - 1

    def price_of_look(self, step: int) -> float:
        """What one candidate pays for :meth:`look` at a step."""
        costs = self.meter.costs
        return costs.check if step < self.last else costs.verify

    # Groups

    def add(self) -> int:
        """Begin a candidate with the task's next seed; returns its index."""
        seed = self.task.seed_of(self._drawn)
        self._drawn += 1
        self.candidates.append(Candidate(seed, origin=f"seed {seed}"))
        return len(self.candidates) - 1

    def derive(self, parent: int, kind: str, number: int) -> int:
        """Begin a candidate that comes out of another; returns its index.

        Its seed follows from the other's, not from how many there are, so that it does not matter
        in which batches they are run.
        """
        seed = seed_of(self.candidates[parent].seed, kind, number)
        self.candidates.append(Candidate(seed, parent, f"{kind} of {parent}"))
        return len(self.candidates) - 1

    def start(self, count: int) -> Group:
        """Begin ``count`` candidates from initial noise of their own."""
        who = [self.add() for _ in range(count)]
        return self.start_from(who, [(self.candidates[i].seed,) for i in who])

    def start_grouped(self, count: int) -> Group:
        """Like :meth:`start`, with NegToMe in groups of consecutive seeds of the task.

        A group lives as long as this needs: its reference runs on unseen for the others, and is
        charged, when it is pruned before them.
        """
        negtome = self.sampler.negtome
        if negtome is None:
            return self.start(count)
        references = [
            self.task.seed_of(negtome.reference_of(self._drawn + i)) for i in range(count)
        ]
        who = [self.add() for _ in range(count)]
        for index, reference in zip(who, references, strict=True):
            self.candidates[index].reference = reference
        seeds = [self.candidates[i].seed for i in who]
        state = self.sampler.start(
            self.task.conditioning, seeds, rows=[0] * count, references=references
        )
        return Group(state, tuple(who), tuple(((seed,),) for seed in seeds))

    def start_from(self, who: Sequence[int], noises: Sequence[Recipe]) -> Group:
        """Candidates ``who`` before their first step, from these initial noises."""
        state = self.sampler.start_from(
            self.task.conditioning, self._noise(noises), rows=[0] * len(who)
        )
        return Group(state, tuple(who), tuple((recipe,) for recipe in noises))

    def select(self, group: Group, rows: Sequence[int] | np.ndarray) -> Group:
        """Some rows only, in this order; a row may be taken more than once."""
        rows = [int(row) for row in rows]
        return Group(
            self.sampler.select(group.state, rows),
            tuple(group.who[row] for row in rows),
            tuple(group.noises[row] for row in rows),
        )

    def concat(self, groups: Sequence[Group]) -> Group:
        """All rows of groups before the same step, all evaluated or none."""
        if len(groups) == 1:
            return groups[0]
        return Group(
            self.sampler.concat([group.state for group in groups]),
            tuple(i for group in groups for i in group.who),
            tuple(noises for group in groups for noises in group.noises),
        )

    def branch(self, group: Group, rows: Sequence[int] | np.ndarray, keep: bool = True) -> Group:
        """Some rows, a row as often as it is named, each going its own way from here on.

        Args:
            group: candidates before a step whose noise they do not have yet.
            rows: in order.
            keep: whether the first of a row's branches goes on as the candidate that it is; all
                others are new candidates, with seeds of their own.
        """
        who: list[int] = []
        taken = Counter[int]()
        for row in rows:
            index = group.who[row]
            if taken[index] or not keep:
                who.append(self.derive(index, f"step {group.state.index} branch", taken[index]))
            else:
                who.append(index)
            taken[index] += 1
        return replace(self.select(group, rows), who=tuple(who))

    def batches(self, group: Group) -> Iterator[Group]:
        """The rows in as few batches as possible."""
        batches = self.sampler.batches(group.state, self.task.batch_size)
        if len(batches) == 1:
            yield group
            return
        for rows in batches:
            yield self.select(group, rows)

    # Work

    def evaluate(self, group: Group) -> Group:
        """Ask the denoiser, batch by batch, about a group before a step."""
        return self.concat([self._evaluate(batch) for batch in self.batches(group)])

    def _evaluate(self, batch: Group) -> Group:
        if not self.interrupted and self.task.cancelled():
            raise Interrupted(batch)
        state = batch.state
        self.meter.charge(evaluations=state.running)
        began = time.perf_counter()
        # What is charged and what goes on does not depend on the pieces that memory allows.
        rows = state.all_rows()

        def ask(piece: range) -> torch.Tensor:
            output = self.sampler.evaluate(self.sampler.select(rows, piece)).output
            assert output is not None
            return output[: len(piece)]

        output = torch.cat(self._evaluations.map(ask, state.running))
        self.meter.took("denoise", time.perf_counter() - began, state.running)
        self._observe(state.index)
        return replace(batch, state=replace(state, output=output))

    def _made(self, group: Group) -> Group:
        """The group with the noise of the step that it is before, from its own seeds by default."""
        step = group.state.index
        if not self.sampler.stochastic:
            return group
        own = [(step_seed(self.candidates[i].seed, step),) for i in group.who]
        noises = tuple(
            known if len(known) > step + 1 else (*known, recipe)
            for known, recipe in zip(group.noises, own, strict=True)
        )
        return replace(group, noises=noises)

    def _stepped(self, group: Group) -> tuple[State, torch.Tensor]:
        """The sampler's step of an evaluated group whose noises are made."""
        noise = None
        if self.sampler.stochastic:
            noise = self._noise([known[group.state.index + 1] for known in group.noises])
        return self.sampler.step(group.state, noise)

    def step(self, group: Group, noises: Sequence[Recipe] | None = None) -> Group:
        """Take an evaluated group over its step, which costs nothing more.

        Args:
            group: evaluated.
            noises: recipes of the noise to add; those of the candidates' own seeds by default.
        """
        if noises is not None:
            known = tuple((*a, b) for a, b in zip(group.noises, noises, strict=True))
            group = replace(group, noises=known)
        group = self._made(group)
        state, _ = self._stepped(group)
        return Group(state, group.who, group.noises)

    def advance(self, group: Group, step: int) -> Group:
        """Bring a group to be evaluated at ``step``."""
        while group.state.index < step or not group.evaluated:
            group = self.step(group) if group.evaluated else self.evaluate(group)
        return group

    def look(self, group: Group) -> Look:
        """Decode the estimates of an evaluated group and score them, without recording it."""
        step = group.state.index
        rewards = self.task.rewards
        decode, paid = self.sampler.decode, "decode"
        if step < self.last:
            rewards = self.task.verifiers.get(step, rewards)
            if self.sampler.previewer is not None:
                decode, paid = self.sampler.preview, "preview"
        values, images = [], []
        for batch in self.batches(group):
            _, estimates = self._stepped(self._made(batch))
            self.meter.charge(**{f"{paid}s": len(batch)}, scores=len(batch))
            began = time.perf_counter()
            pieces = self._decodes.map(partial(_decode_some, decode, estimates), len(batch))
            decoded = np.concatenate(pieces)
            middle = time.perf_counter()
            texts = [self.task.prompt] * len(batch)
            count = self.sampler.scored_frames
            values.append(
                np.stack([score_frames(one.score, decoded, texts, count) for one in rewards])
            )
            self.meter.took(paid, middle - began, len(batch))
            self.meter.took("reward", time.perf_counter() - middle, len(batch))
            images.append(decoded)
        return Look(step, np.concatenate(values, axis=1), np.concatenate(images))

    def record(self, group: Group, look: Look, rows: Sequence[int] | None = None) -> None:
        """Write down what was seen of some rows of a group, all by default."""
        if look.step == self.last:
            group = self._made(group)
        for row in range(len(group)) if rows is None else rows:
            index = group.who[row]
            candidate = self.candidates[index]
            candidate.noises = group.noises[row]
            candidate.scores[look.step] = float(look.values[0, row])
            candidate.thumbnails[look.step] = thumbnail(look.images[row])
            if look.step == self.last:
                self._finish(index, look.values[:, row], look.images[row])
        seen = look.values[0, ~np.isnan(look.values[0])]
        self._seen = float(seen.max()) if len(seen) else self._seen

    def reach(self, group: Group, step: int) -> tuple[Group, np.ndarray]:
        """Evaluate a group up to ``step``, look at it and record that, batch after batch.

        Returns:
            The group evaluated at ``step``, and its scores (R, n).
        """
        reached, values = [], []
        for batch in self.batches(group):
            batch = self.advance(batch, step)
            look = self.look(batch)
            self.record(batch, look)
            reached.append(batch)
            values.append(look.values)
        return self.concat(reached), np.concatenate(values, axis=1)

    def drop(self, group: Group, kept: Sequence[int] | np.ndarray) -> None:
        """Mark the candidates of a group that are in none of the rows ``kept`` as pruned there."""
        survivors = {group.who[row] for row in kept}
        for index in set(group.who) - survivors:
            self.candidates[index].pruned_at = group.state.index
        self.alive = len(survivors)
        self._observe(group.state.index)

    # Books

    def _finish(self, index: int, values: np.ndarray, image: np.ndarray) -> None:
        names = [reward.name for reward in self.task.rewards]
        self.candidates[index].rewards = dict(zip(names, map(float, values), strict=True))
        self._finals[index] = values
        self._images[index] = image
        if not self.task.keep_finals:
            members = list(self._finals)
            useful = {*self._front(members), *self._front(members[self._before :])}
            self._images = {i: kept for i, kept in self._images.items() if i in useful}

    def _front(self, members: Sequence[int]) -> list[int]:
        """Those finals that no other one beats by all rewards: only they can win."""
        scored = [i for i in sorted(members) if not np.isnan(self._finals[i]).any()]
        if not scored:
            return []
        values = np.stack([self._finals[i] for i in scored])
        order = np.argsort(merit(values.T))[::-1]
        front: list[int] = []
        for row in order:
            if not any((values[kept] >= values[row]).all() for kept in front):
                front.append(int(row))
        return [scored[row] for row in front]

    def finished(self) -> list[int]:
        """Candidates with a final image, in order."""
        return sorted(self._finals)

    def final(self, index: int) -> np.ndarray:
        """Scores (R,) of a candidate's final image."""
        return self._finals[index]

    def ranked(self, members: Sequence[int] | None = None) -> list[int]:
        """Finished candidates, or ``members`` of them, the best first.

        Those that could not be scored are left out.
        """
        finished = self.finished() if members is None else sorted(members)
        if not finished:
            return []
        values = np.stack([self._finals[i] for i in finished], axis=1)
        order = np.argsort(-merit(values), kind="stable")
        return [finished[row] for row in order if not np.isnan(values[:, row]).any()]

    def end_round(self) -> None:
        """Close a round of the method, if anything finished in it."""
        members = list(self._finals)[self._before :]
        for best in self.ranked(members)[:1]:
            candidate = self.candidates[best]
            name = self.task.reward.name
            self.rounds.append(
                Round(
                    search_round=len(self.rounds) + 1,
                    num_noises=len(members),
                    best_noise_seed=candidate.seed,
                    best_score=candidate.rewards[name],
                    choice_of_metric=name,
                    best=best,
                    image=self._images[best],
                )
            )
        self._before = len(self._finals)

    def _observe(self, step: int) -> None:
        name = self.task.reward.name
        finals = [self.candidates[i].rewards[name] for i in self._finals]
        scored = [score for score in finals if not np.isnan(score)]
        self.task.observe(
            Progress(
                step=step,
                alive=self.alive,
                n=len(self.candidates),
                best=max(scored, default=self._seen),
                spent=self.meter.spent,
                budget=self.task.budget,
                unit=self.meter.costs.unit,
                round=len(self.rounds) + 1,
                message=self.message,
            )
        )

    def finish_one(self, group: Group) -> None:
        """After an interruption: unless an image is finished, finish the best row of a group."""
        self.interrupted = True
        if self._finals:
            return
        latest = [
            max(self.candidates[i].scores.items(), default=(0, -np.inf))[1] for i in group.who
        ]
        best = keep_best(np.array(latest), 1)
        self.alive, self.message = 1, "stopping"
        self.reach(self.select(group, best), self.last)

    def result(self) -> SearchResult:
        """What was found.

        Raises:
            UserError: no final image could be scored.
        """
        if len(self._finals) > self._before:
            self.end_round()
        ranked = self.ranked()
        if not ranked:
            names = " and ".join(reward.name for reward in self.task.rewards)
            raise UserError(f"none of {len(self._finals)} final images could be scored by {names}")
        winner = ranked[0]
        self.alive = 1
        self._observe(self.last)
        return SearchResult(
            method=self.method,
            prompt=self.task.prompt,
            model=self.task.model,
            rewards=tuple(reward.name for reward in self.task.rewards),
            options=self.options.model_dump(),
            budget=self.task.budget,
            planned=self.planned,
            spent=self.meter.spent,
            unit=self.meter.costs.unit,
            nfe=self.meter.evaluations,
            decodes=self.meter.decodes,
            scored=self.meter.scores,
            seconds=self.meter.seconds,
            interrupted=self.interrupted,
            winner=winner,
            image=self._images[winner],
            candidates=self.candidates,
            rounds=self.rounds,
            finals=self._images if self.task.keep_finals else {},
            frame_rate=self.sampler.frame_rate,
        )
