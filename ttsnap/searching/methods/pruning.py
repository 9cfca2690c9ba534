"""Best-of-N, and TTSnap (arXiv 2511.22242, section 3): prune by early estimates of the reward."""

from __future__ import annotations

import math
from dataclasses import replace
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.errors import UserError
from ttsnap.schedule import Schedule, check_steps, keep_best
from ttsnap.searching.engine import Group, Run, merit

if TYPE_CHECKING:
    from ttsnap.searching.methods import NoOptions, Pruning


def best_of_n(run: Run, options: NoOptions) -> None:
    """Finish as many candidates as the budget affords."""
    prune(run, Schedule(), affordable(run, Schedule()), grouped=True)


def ttsnap(run: Run, options: Pruning) -> None:
    """Prune at the checks of a schedule, by the verifiers of their steps.

    A step without a verifier is checked by the rewards themselves.
    """
    schedule = Schedule.parse(options.schedule)
    check_steps(schedule, run.sampler.steps)
    prune(run, schedule, affordable(run, schedule), grouped=True)


def ttsp(run: Run, options: Pruning) -> None:
    """Prune at the checks of a schedule, by the rewards themselves."""
    run.task = replace(run.task, verifiers={})
    ttsnap(run, options)


def affordable(run: Run, schedule: Schedule) -> int:
    """Largest number of candidates that the budget runs through ``schedule`` in groups.

    Raises:
        UserError: it is zero.
    """
    meter = run.meter
    n = meter.affordable(schedule)
    while n and not meter.affords(
        meter.costs.cost(n, schedule) + references(run, schedule, n) * meter.costs.denoise
    ):
        n -= 1
    if n == 0:
        raise UserError(
            f"budget of {meter.budget:g} {meter.costs.unit}: too little for a candidate and its "
            "reference, see sampling.negtome"
        )
    return n


def references(run: Run, schedule: Schedule, n: int) -> int:
    """Most evaluations that NegToMe needs for references that are no candidates any more, or yet.

    Before the first check only a last group that is not whole may lack its reference; after it,
    every group may.
    """
    negtome = run.sampler.negtome
    if negtome is None:
        return 0
    counts = schedule.counts(n)
    passed = [sum(check.step < step for check in schedule.checks) for step in run.sampler.coupled]
    groups, lacking = math.ceil(n / negtome.group), 0 < n % negtome.group <= negtome.reference
    return sum(min(counts[number], groups) if number else lacking for number in passed)


def prune(run: Run, schedule: Schedule, n: int, grouped: bool = False) -> None:
    """Run ``n`` candidates through ``schedule``; all alive reach a check before any is pruned.

    Where seconds are what is spent and they run short, fewer are begun or survive.

    Args:
        run: the search.
        schedule: the checks.
        n: as the budget allows.
        grouped: whether NegToMe acts, see :meth:`Run.start_grouped`.
    """
    run.planned += run.meter.costs.cost(n, schedule)
    if grouped:
        run.planned += references(run, schedule, n) * run.meter.costs.denoise
    run.message = "pruning" if schedule.checks else "finishing all"
    group, scores = begin(run, schedule, n, grouped)
    steps = [check.step for check in schedule.checks]
    counts = schedule.counts(len(group))[1:]
    for i, (following, count) in enumerate(zip([*steps[1:], run.last], counts, strict=False)):
        rest, prices = Schedule(schedule.checks[i + 1 :]), run.meter.costs.prices(steps)[i + 1 :]
        while count > 1 and not run.meter.affords(sum(map(mul, rest.counts(count), prices))):
            count -= 1
        kept = keep_best(merit(scores), count)
        run.drop(group, kept)
        group, scores = run.reach(run.select(group, kept), following)


def begin(run: Run, schedule: Schedule, n: int, grouped: bool = False) -> tuple[Group, np.ndarray]:
    """Bring ``n`` new candidates to the first check, or to the end if there is none.

    Where seconds are what is spent and they run short, fewer are begun. For the arguments see
    :func:`prune`.

    Returns:
        The candidates evaluated there, and their scores (R, n).
    """
    run.alive = n
    step = [*(check.step for check in schedule.checks), run.last][0]
    groups: list[Group] = []
    values: list[np.ndarray] = []
    begun = 0
    start, size = run.start, run.task.batch_size
    if grouped and (negtome := run.sampler.negtome):
        if size < negtome.group:
            raise UserError(
                f"batches of {size} are smaller than sampling.negtome.group, {negtome.group}, "
                "whose images run together"
            )
        start, size = run.start_grouped, size - size % negtome.group
    while begun < n:
        group, seen = run.reach(start(min(size, n - begun)), step)
        groups.append(group)
        values.append(seen)
        begun += len(group)
        n = min(n, max(begun, run.meter.affordable(schedule, begun)))
    return run.concat(groups), np.concatenate(values, axis=1)
