"""The work of a search: denoise candidates in batches, look at them, and charge for it."""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ttsnap.diffusion.backoff import Backoff
from ttsnap.diffusion.twins import share
from ttsnap.errors import UserError
from ttsnap.prompts import step_seed
from ttsnap.rewards.frames import score_frames, still
from ttsnap.schedule import DRAFT
from ttsnap.searching.ledger import Ledger, best
from ttsnap.searching.meter import Meter
from ttsnap.searching.noise import NoiseSource, Recipe
from ttsnap.searching.task import Progress, SearchTask

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import State
    from ttsnap.searching.result import SearchResult

THUMBNAIL = 128  # pixels, longest side


@dataclass(frozen=True, eq=False)
class Cohort:
    """Candidates before the same step, one a row; a value that no step changes.

    Attributes:
        state: of the sampler.
        who: index of the candidate in each row; branches of one may fill several.
        noises: what each row's candidate is made of so far, as ``Candidate`` keeps it.
        roots: seed that the noises of each row's further steps follow from, unless others are
            chosen.
    """

    state: State
    who: tuple[int, ...]
    noises: tuple[tuple[Recipe, ...], ...]
    roots: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.who)

    @property
    def evaluated(self) -> bool:
        """Whether the denoiser was asked about ``state``."""
        return self.state.output is not None

    @property
    def own_noises(self) -> list[Recipe]:
        """What the step that the rows are before adds to each, if nothing else is chosen."""
        return [(step_seed(root, self.state.index),) for root in self.roots]


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of the rows of a cohort.

    Attributes:
        step: index of the step whose estimates they are.
        values: float32 (R, n), scores by each reward, or its verifier for this step.
        images: uint8 (n, H, W, 3), or videos (n, F, H, W, 3).
    """

    step: int
    values: np.ndarray
    images: np.ndarray


@dataclass
class Backoffs:
    """What is known of how much fits into memory; batches are as large as they may be until then.

    Attributes:
        evaluations: of the denoiser.
        decodes: of estimates and final latents.
    """

    evaluations: Backoff = field(default_factory=lambda: Backoff(sys.maxsize))
    decodes: Backoff = field(default_factory=lambda: Backoff(sys.maxsize))


class Interrupted(Exception):
    """The search was cancelled before ``cohort`` was evaluated."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort


class Executor:
    """Does what a method asks for, charges it, and has it written down.

    Attributes:
        task: what to search for.
        sampler: of the task.
        ledger: the books.
        meter: what was spent.
        planned: cost of all that was begun, as foreseen.
        alive: candidates that the method has not dropped, for those who watch.
        message: what it is doing, for the same.
        drawn: seeds of the task that were used.
        drafts: does the same for drafts; None unless a method has asked for them.
        share: evaluations that one is charged as: less than 1 where a draft leaves guidance out.
        interrupted: whether the search was cancelled.
    """

    def __init__(self, task: SearchTask, backoffs: Backoffs) -> None:
        self.task = task
        self.sampler = task.sampler
        self.ledger = Ledger(task.names, task.keep_finals)
        self.meter = Meter(task.costs, task.budget)
        self.planned = 0.0
        self.alive = 0
        self.message = ""
        self.drawn = 0
        self.drafts: Executor | None = None
        self.share = 1.0
        self.interrupted = False
        self._backoffs = backoffs
        self._noise = NoiseSource(self.sampler, task.options.move())

    @property
    def last(self) -> int:
        """Index of the last step."""
        return self.sampler.steps - 1

    @property
    def noisy(self) -> list[int]:
        """Indices of the steps before the last at which another noise makes another candidate."""
        return [step for step in self.sampler.noisy_steps if step < self.last]

    def make_drafts(self, steps: int, guided: bool) -> None:
        """Have drafts of so many steps at hand, and what they cost, for looks at ``DRAFT``.

        Args:
            steps: of a draft.
            guided: whether it pays for classifier-free guidance.
        """
        drafter = self.sampler.drafter(steps, guided)
        self.drafts = copy.copy(self)
        self.drafts.sampler = drafter
        self.drafts.share = share(drafter, self.sampler)
        self.meter.costs = replace(self.meter.costs, draft=steps * self.drafts.share)

    def price_of_look(self, step: int) -> float:
        """What one candidate pays for :meth:`look` at a step."""
        costs = self.meter.costs
        return costs.check if step < self.last else costs.verify

    def check_looks(self, steps: Iterable[int], first: int = 0) -> list[int]:
        """The looks that a method was asked to take, in order.

        Raises:
            UserError: one is before step ``first``, or not before the last step.
        """
        looks = sorted(set(steps))
        for step in looks:
            if not first <= step < self.last:
                raise UserError(
                    f"method {self.task.method}: steps: {step} is no step from {first} to "
                    f"{self.last - 1}"
                )
        return looks

    # Cohorts

    def begin(self) -> int:
        """Begin a candidate with the task's next seed; returns its index."""
        self.drawn += 1
        return self.ledger.begin(self.task.seed_of(self.drawn - 1))

    def start(self, count: int) -> Cohort:
        """Begin ``count`` candidates from initial noise of their own.

        With NegToMe they form groups by the order of the task's seeds. A group lives as long as
        this needs: its reference runs on unseen for the others, and is charged, when it is pruned
        before them, or belongs to another cohort.
        """
        negtome = self.sampler.negtome
        if negtome is None:
            who = [self.begin() for _ in range(count)]
            return self.start_from(who, [(self.ledger.candidates[i].seed,) for i in who])
        references = [self.task.seed_of(negtome.reference_of(self.drawn + i)) for i in range(count)]
        who = [self.begin() for _ in range(count)]
        for index, reference in zip(who, references, strict=True):
            self.ledger.candidates[index].reference = reference
        seeds = [self.ledger.candidates[i].seed for i in who]
        state = self.sampler.start(
            self.task.conditioning, seeds, rows=[0] * count, references=references
        )
        return Cohort(state, tuple(who), tuple(((seed,),) for seed in seeds), tuple(seeds))

    def start_from(self, who: Sequence[int], noises: Sequence[Recipe]) -> Cohort:
        """Candidates ``who`` before their first step, from these initial noises.

        The noises of the steps follow from the seed that the initial noise once was drawn from, so
        that moving away from it changes nothing else.
        """
        state = self.sampler.start_from(
            self.task.conditioning, self._noise(noises), rows=[0] * len(who)
        )
        roots = tuple(recipe[0] for recipe in noises)
        return Cohort(state, tuple(who), tuple((recipe,) for recipe in noises), roots)

    def select(self, cohort: Cohort, rows: Sequence[int] | np.ndarray) -> Cohort:
        """Some rows only, in this order; a row may be taken more than once."""
        rows = [int(row) for row in rows]
        return Cohort(
            self.sampler.select(cohort.state, rows),
            tuple(cohort.who[row] for row in rows),
            tuple(cohort.noises[row] for row in rows),
            tuple(cohort.roots[row] for row in rows),
        )

    def concat(self, cohorts: Sequence[Cohort]) -> Cohort:
        """All rows of cohorts before the same step, all evaluated or none."""
        if len(cohorts) == 1:
            return cohorts[0]
        return Cohort(
            self.sampler.concat([cohort.state for cohort in cohorts]),
            tuple(i for cohort in cohorts for i in cohort.who),
            tuple(noises for cohort in cohorts for noises in cohort.noises),
            tuple(root for cohort in cohorts for root in cohort.roots),
        )

    def branch(self, cohort: Cohort, rows: Sequence[int] | np.ndarray, before: int = 0) -> Cohort:
        """Some rows, a row as often as it is named, each going its own way from here on.

        The first branch of a row goes on as the candidate that it is; all others are new
        candidates, with seeds of their own.

        Args:
            cohort: candidates before a step whose noise has an effect, and is not chosen yet.
            rows: in order.
            before: how many branches of each row there are already.
        """
        who: list[int] = []
        roots: list[int] = []
        taken = Counter(dict.fromkeys(cohort.who, before))
        for row in rows:
            index, root = cohort.who[row], cohort.roots[row]
            if taken[index]:
                kind = f"step {cohort.state.index} branch"
                branch = self.ledger.derive(index, kind, taken[index])
                who.append(branch)
                roots.append(self.ledger.candidates[branch].seed)
            else:
                who.append(index)
                roots.append(root)
            taken[index] += 1
        return replace(self.select(cohort, rows), who=tuple(who), roots=tuple(roots))

    def batches(self, cohort: Cohort) -> Iterator[Cohort]:
        """The rows in as few batches as possible."""
        batches = self.sampler.batches(cohort.state, self.task.batch_size)
        if len(batches) == 1:
            yield cohort
            return
        for rows in batches:
            yield self.select(cohort, rows)

    # Work

    def evaluate(self, cohort: Cohort) -> Cohort:
        """Ask the denoiser, batch by batch, about a cohort before a step."""
        return self.concat([self._evaluate(batch) for batch in self.batches(cohort)])

    def _evaluate(self, batch: Cohort) -> Cohort:
        if not self.interrupted and self.task.cancelled():
            raise Interrupted(batch)
        state = batch.state
        self.meter.charge(evaluations=state.running * self.share)
        began = time.perf_counter()
        # What is charged and what goes on does not depend on the pieces that memory allows.
        rows = state.all_rows()

        def ask(piece: range) -> torch.Tensor:
            output = self.sampler.evaluate(self.sampler.select(rows, piece)).output
            assert output is not None
            return output[: len(piece)]

        output = torch.cat(self._backoffs.evaluations.map(ask, state.running))
        if self.meter.timed and torch.accelerator.is_available():
            torch.accelerator.synchronize()  # else what was only asked for would cost nothing
        self.meter.took("denoise", time.perf_counter() - began, state.running * self.share)
        self._observe(state.index)
        return replace(batch, state=replace(state, output=output))

    def _made(self, cohort: Cohort) -> Cohort:
        """The cohort with the noise of the step that it is before, its own by default."""
        if not self.sampler.stochastic:
            return cohort
        noises = tuple(
            known if len(known) > cohort.state.index + 1 else (*known, recipe)
            for known, recipe in zip(cohort.noises, cohort.own_noises, strict=True)
        )
        return replace(cohort, noises=noises)

    def _stepped(self, cohort: Cohort) -> tuple[State, torch.Tensor]:
        """The sampler's step of an evaluated cohort whose noises are made."""
        noise = None
        if self.sampler.stochastic:
            noise = self._noise([known[cohort.state.index + 1] for known in cohort.noises])
        return self.sampler.step(cohort.state, noise)

    def step(self, cohort: Cohort, noises: Sequence[Recipe] | None = None) -> Cohort:
        """Take an evaluated cohort over its step, which costs nothing more.

        Args:
            cohort: evaluated.
            noises: recipes of the noise to add; the rows' own by default.
        """
        if noises is not None:
            cohort = _chosen(cohort, noises)
        cohort = self._made(cohort)
        state, _ = self._stepped(cohort)
        return replace(cohort, state=state)

    def advance(self, cohort: Cohort, step: int) -> Cohort:
        """Bring a cohort to be evaluated at ``step``."""
        while cohort.state.index < step or not cohort.evaluated:
            cohort = self.step(cohort) if cohort.evaluated else self.evaluate(cohort)
        return cohort

    def roll_out(self, cohort: Cohort) -> Cohort:
        """Bring an evaluated cohort to the last step, adding no noise from here on."""
        while cohort.state.index < self.last:
            cohort = self.evaluate(self.step(cohort, [()] * len(cohort)))
        return _chosen(cohort, [()] * len(cohort))

    def look(self, cohort: Cohort) -> Look:
        """Decode the estimates of an evaluated cohort and score them, without recording it."""
        step = cohort.state.index
        rewards = self.task.rewards
        decode, paid = self.sampler.decode, "decode"
        if step < self.last:
            rewards = self.task.verifiers.get(step, rewards)
            if self.sampler.previewer is not None:
                decode, paid = self.sampler.preview, "preview"
        values, images = [], []
        for batch in self.batches(cohort):
            _, estimates = self._stepped(self._made(batch))
            self.meter.charge(**{f"{paid}s": len(batch)}, scores=len(batch))
            began = time.perf_counter()
            pieces = self._backoffs.decodes.map(
                partial(_decode_some, decode, estimates), len(batch)
            )
            decoded = np.concatenate(pieces)
            middle = time.perf_counter()
            texts = [self.task.prompt] * len(batch)
            count = self.sampler.scored_frames
            values.append(np.stack([score_frames(one, decoded, texts, count) for one in rewards]))
            self.meter.took(paid, middle - began, len(batch))
            self.meter.took("reward", time.perf_counter() - middle, len(batch))
            images.append(decoded)
        return Look(step, np.concatenate(values, axis=1), np.concatenate(images))

    def record(self, cohort: Cohort, look: Look) -> None:
        """Write down what was seen of a cohort."""
        final = look.step == self.last
        self.ledger.record(
            look.step,
            cohort.who,
            (self._made(cohort) if final else cohort).noises,
            look.values,
            [thumbnail(image) for image in look.images],
            look.images if final else None,
        )

    def reach(self, cohort: Cohort, step: int) -> tuple[Cohort, np.ndarray]:
        """Evaluate a cohort up to ``step``, look at it and record that, batch after batch.

        Returns:
            The cohort evaluated at ``step``, at ``DRAFT`` as it was, and its scores (R, n).
        """
        reached, values = [], []
        for batch in self.batches(cohort):
            if step == DRAFT:
                look = self._draft(batch)
            else:
                batch = self.advance(batch, step)
                look = self.look(batch)
            self.record(batch, look)
            reached.append(batch)
            values.append(look.values)
        return self.concat(reached), np.concatenate(values, axis=1)

    def _draft(self, cohort: Cohort) -> Look:
        """Look at the final images of cheap runs from the same noise as a cohort before its first.

        The noises of a stochastic scheduler's steps follow from the same seeds.
        """
        drafts = self.drafts
        assert drafts is not None
        drafts.alive, drafts.message = self.alive, "drafting"
        state = drafts.sampler.start_from(
            self.task.conditioning,
            self._noise([noises[0] for noises in cohort.noises]),
            rows=[0] * len(cohort),
        )
        try:
            seen = drafts.look(drafts.advance(replace(cohort, state=state), drafts.last))
        except Interrupted:
            raise Interrupted(cohort) from None
        return replace(seen, step=DRAFT)

    def drop(self, cohort: Cohort, kept: Sequence[int] | np.ndarray) -> None:
        """Mark the candidates of a cohort that are in none of the rows ``kept`` as pruned there.

        Before their first evaluation they have been seen as drafts.
        """
        survivors = {cohort.who[row] for row in kept}
        begun = cohort.state.index or cohort.evaluated
        seen_at = cohort.state.index if begun else DRAFT
        self.ledger.drop(sorted({*cohort.who} - survivors), seen_at)
        self.alive = len(survivors)
        self._observe(cohort.state.index)

    # The end

    def finish_one(self, cohort: Cohort) -> None:
        """After an interruption: unless an image is finished, finish the best row of a cohort."""
        self.interrupted = True
        if self.ledger.finished:
            return
        row = best(self.ledger.latest(cohort.who), 1)
        self.alive, self.message = 1, "stopping"
        self.reach(self.select(cohort, row), self.last)

    def result(self) -> SearchResult:
        """What was found.

        Raises:
            UnscoredError: no final image could be scored.
        """
        found = self.ledger.result(self.task, self.meter, self.planned, self.interrupted)
        self.alive = 1
        self._observe(self.last)
        return found

    def _observe(self, step: int) -> None:
        self.task.observe(
            Progress(
                step=step,
                alive=self.alive,
                n=len(self.ledger.candidates),
                best=self.ledger.top,
                spent=self.meter.spent,
                budget=self.task.budget,
                unit=self.meter.costs.unit,
                round=len(self.ledger.rounds) + 1,
                message=self.message,
            )
        )


def _chosen(cohort: Cohort, noises: Sequence[Recipe]) -> Cohort:
    """The cohort with these noises for the step that it is before."""
    known = tuple((*a, b) for a, b in zip(cohort.noises, noises, strict=True))
    return replace(cohort, noises=known)


def _decode_some(
    decode: Callable[[torch.Tensor], np.ndarray], estimates: torch.Tensor, rows: range
) -> np.ndarray:
    return decode(estimates[rows.start : rows.stop])


def thumbnail(image: np.ndarray) -> np.ndarray:
    """``image`` with its longest side reduced to 128 pixels if it is larger.

    Args:
        image: uint8 (H, W, 3), or a video (F, H, W, 3), which its middle frame stands for.
    """
    picture = Image.fromarray(still(image))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.array(picture)
