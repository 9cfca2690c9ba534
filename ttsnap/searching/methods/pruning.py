"""Running candidates through a pruning schedule: what several methods do, some with no checks."""

from __future__ import annotations

from operator import mul
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt

from ttsnap.errors import UserError
from ttsnap.schedule import Schedule, affords, check_steps
from ttsnap.searching.ledger import best
from ttsnap.searching.methods.base import MethodOptions

if TYPE_CHECKING:
    from ttsnap.searching.executor import Cohort, Executor


SHARE = 0.4  # of a run's steps that a draft takes


class Drafting(MethodOptions):
    """What a draft is, for methods that may look at them."""

    draft_steps: PositiveInt | None = Field(
        None, description=f"Steps of a draft; by default {SHARE} of the model's, to the nearest."
    )
    draft_guided: bool = Field(
        False, description="Whether drafts pay for classifier-free guidance, if the model has any."
    )


class Pruning(Drafting):
    """Checks at which the worst candidates are dropped (arXiv 2511.22242, section 3)."""

    schedule: str = Field(
        description="Checks STEP:KEEP,… such as 2:0.4,6:0.4, before them draft:KEEP; empty prunes "
        "nothing."
    )

    def checks(self, steps: int) -> Schedule:
        """The schedule, for a sampler of as many steps.

        Raises:
            UserError: it is none, or checks too late.
        """
        schedule = Schedule.parse(self.schedule)
        check_steps(schedule, steps)
        return schedule


def scheduled(run: Executor, options: Drafting) -> Schedule:
    """The schedule of a method's options, with drafts at hand if it looks at them.

    Where the budget then is for one candidate, which no draft could help, nobody is looked at.

    Raises:
        UserError: drafts would save nothing, or the solver cannot take so few steps.
    """
    schedule = options.checks(run.sampler.steps)
    if not schedule.drafted:
        return schedule
    _make_drafts(run, options)
    return schedule if run.meter.costs.largest_n(run.meter.left, schedule) > 1 else Schedule()


def _make_drafts(run: Executor, options: Drafting) -> None:
    """Have drafts at hand; if nobody says of how many steps, of a number that the solver can take.

    Raises:
        UserError: it cannot take the number, or drafts would save nothing.
    """
    whole = run.sampler.steps
    wanted = options.draft_steps or max(1, round(SHARE * whole))
    if wanted >= whole and (options.draft_guided or not run.sampler.guided):
        raise UserError(
            f"method {run.task.method}: a draft of {wanted} steps costs no less than a run of "
            f"{whole}; give fewer steps"
        )
    possible = [wanted] if options.draft_steps else range(wanted, max(whole, wanted + 1))
    for steps in possible:
        try:
            run.make_drafts(steps, options.draft_guided)
            break
        except UserError:
            if steps == possible[-1]:
                raise


def affordable(run: Executor, schedule: Schedule = Schedule()) -> int:
    """Largest number of candidates that the budget runs through ``schedule``, references included.

    Raises:
        UserError: nothing is spent yet, and it is zero.
    """
    n = largest(run, schedule, run.meter.left) if run.meter.affordable(schedule) else 0
    if n == 0 and not run.meter.evaluations:
        raise UserError(
            f"budget of {run.meter.budget:g} {run.meter.costs.unit}: too little for a candidate "
            "and its reference, see sampling.negtome"
        )
    return n


def largest(run: Executor, schedule: Schedule, left: float) -> int:
    """Largest number of candidates that ``left`` runs through ``schedule``; may be zero."""
    n = run.meter.costs.largest_n(left, schedule)
    while n and not affords(left, cost(run, schedule, n)):
        n -= 1
    return n


def cost(run: Executor, schedule: Schedule, n: int) -> float:
    """What the next ``n`` candidates cost on their way through ``schedule``, with references."""
    costs = run.meter.costs
    return costs.cost(n, schedule) + references(run, schedule, n) * costs.denoise


def references(run: Executor, schedule: Schedule, n: int) -> int:
    """Most evaluations that NegToMe needs for references that are no candidates any more, or yet.

    Before the first check only the first and the last group of the next ``n`` candidates may lack
    their reference, where they are not whole; after it, every group may.
    """
    negtome = run.sampler.negtome
    if negtome is None:
        return 0
    members = range(run.drawn, run.drawn + n)
    groups = {negtome.reference_of(member) for member in members}
    lacking = len(groups.difference(members))
    counts = schedule.counts(n)
    passed = [sum(check.step < step for check in schedule.checks) for step in run.sampler.coupled]
    return sum(min(counts[number], len(groups)) if number else lacking for number in passed)


def prune(run: Executor, schedule: Schedule, n: int) -> None:
    """Run ``n`` candidates through ``schedule``; all alive reach a check before any is pruned.

    Where seconds are what is spent and they run short, fewer are begun or survive.

    Args:
        run: the search.
        schedule: the checks.
        n: as the budget allows.
    """
    run.planned += cost(run, schedule, n)
    run.message = "pruning" if schedule.checks else "finishing all"
    cohort, scores = begin(run, schedule, n)
    steps = [check.step for check in schedule.checks]
    counts = schedule.counts(len(cohort))[1:]
    for i, (following, count) in enumerate(zip([*steps[1:], run.last], counts, strict=False)):
        rest, prices = Schedule(schedule.checks[i + 1 :]), run.meter.costs.prices(steps)[i + 1 :]
        while count > 1 and not run.meter.affords(sum(map(mul, rest.counts(count), prices))):
            count -= 1
        kept = best(scores, count)
        run.drop(cohort, kept)
        cohort, scores = run.reach(run.select(cohort, kept), following)


def begin(run: Executor, schedule: Schedule, n: int) -> tuple[Cohort, np.ndarray]:
    """Bring ``n`` new candidates to the first check, or to the end if there is none.

    Where seconds are what is spent and they run short, fewer are begun. For the arguments see
    :func:`prune`.

    Returns:
        The candidates evaluated there, and their scores (R, n).
    """
    run.alive = n
    step = [*(check.step for check in schedule.checks), run.last][0]
    cohorts: list[Cohort] = []
    values: list[np.ndarray] = []
    begun = 0
    size, group = run.task.batch_size, 1
    if negtome := run.sampler.negtome:
        group = negtome.group
        if size < group:
            raise UserError(
                f"batches of {size} are smaller than sampling.negtome.group, {group}, whose images "
                "run together"
            )
        size -= size % group
    while begun < n:
        # Batches end where groups do, so that no group is in two of them.
        cohort, seen = run.reach(run.start(min(size - run.drawn % group, n - begun)), step)
        cohorts.append(cohort)
        values.append(seen)
        begun += len(cohort)
        n = min(n, max(begun, run.meter.affordable(schedule, begun)))
    return run.concat(cohorts), np.concatenate(values, axis=1)
