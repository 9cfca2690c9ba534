"""Best-of-N, and TTSnap (arXiv 2511.22242, section 3): prune by early estimates of the reward."""

from __future__ import annotations

from dataclasses import replace
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.schedule import Schedule, check_steps, keep_best
from ttsnap.search.engine import Group, Run, merit

if TYPE_CHECKING:
    from ttsnap.search.methods import NoOptions, Pruning


def best_of_n(run: Run, options: NoOptions) -> None:
    """Finish as many candidates as the budget affords."""
    prune(run, Schedule(), run.meter.affordable())


def ttsnap(run: Run, options: Pruning) -> None:
    """Prune at the checks of a schedule, by the verifiers of their steps.

    A step without a verifier is checked by the rewards themselves.
    """
    schedule = Schedule.parse(options.schedule)
    check_steps(schedule, run.sampler.steps)
    prune(run, schedule, run.meter.affordable(schedule))


def ttsp(run: Run, options: Pruning) -> None:
    """Prune at the checks of a schedule, by the rewards themselves."""
    run.task = replace(run.task, verifiers={})
    ttsnap(run, options)


def prune(run: Run, schedule: Schedule, n: int) -> None:
    """Run ``n`` candidates through ``schedule``; all alive reach a check before any is pruned.

    Where seconds are what is spent and they run short, fewer are begun or survive.
    """
    run.planned += run.meter.costs.cost(n, schedule)
    run.message = "pruning" if schedule.checks else "finishing all"
    group, scores = begin(run, schedule, n)
    steps = [check.step for check in schedule.checks]
    counts = schedule.counts(len(group))[1:]
    for i, (following, count) in enumerate(zip([*steps[1:], run.last], counts, strict=False)):
        rest, prices = Schedule(schedule.checks[i + 1 :]), run.meter.costs.prices(steps)[i + 1 :]
        while count > 1 and not run.meter.affords(sum(map(mul, rest.counts(count), prices))):
            count -= 1
        kept = keep_best(merit(scores), count)
        run.drop(group, kept)
        group, scores = run.reach(run.select(group, kept), following)


def begin(run: Run, schedule: Schedule, n: int) -> tuple[Group, np.ndarray]:
    """Bring ``n`` new candidates to the first check, or to the end if there is none.

    Where seconds are what is spent and they run short, fewer are begun.

    Returns:
        The candidates evaluated there, and their scores (R, n).
    """
    run.alive = n
    step = [*(check.step for check in schedule.checks), run.last][0]
    groups: list[Group] = []
    values: list[np.ndarray] = []
    begun = 0
    while begun < n:
        group, seen = run.reach(run.start(min(run.task.batch_size, n - begun)), step)
        groups.append(group)
        values.append(seen)
        begun += len(group)
        n = min(n, max(begun, run.meter.affordable(schedule, begun)))
    return run.concat(groups), np.concatenate(values, axis=1)
