"""Zero-order search: hill climbing over the initial noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.schedule import Check, Schedule, check_steps, keep_best
from ttsnap.searching.engine import Group, Run, merit
from ttsnap.searching.noise import Recipe

if TYPE_CHECKING:
    from ttsnap.searching.methods import Climbing, ZeroOrder


@dataclass(frozen=True, eq=False)
class Pivot:
    """A candidate whose neighbours are tried.

    Attributes:
        index: of the candidate.
        noise: recipe of its initial noise.
        values: its scores (R, 1) where candidates are compared.
        group: the candidate evaluated there; None if its final image is already known.
    """

    index: int
    noise: Recipe
    values: np.ndarray
    group: Group | None


def zero_order(run: Run, options: ZeroOrder) -> None:
    """Climb from noise to better noise until the budget is spent (arXiv 2501.09732, section 4.1).

    Candidates are compared by their final images, or at one earlier step, by its verifier; then
    only the top of each hill is finished. The last round has as many neighbours as the budget
    affords.
    """
    schedule = Schedule() if options.step is None else Schedule((Check(options.step, 1.0),))
    check_steps(schedule, run.sampler.steps)
    run.meter.affordable(schedule)
    climb(run, options, schedule, iter(()))


def climb(run: Run, options: Climbing, schedule: Schedule, bases: Iterator[Pivot]) -> None:
    """Climb from each of ``bases``, then from fresh noise, until the budget is spent.

    A round tries neighbours of a noise. If one is better, it is climbed to; if not, the next base
    is climbed from.

    Args:
        run: the search.
        options: how many neighbours, and how near.
        schedule: the check where candidates are compared; none compares final images.
        bases: finished candidates to begin with.
    """
    run.message = "climbing"
    steps = [check.step for check in schedule.checks]
    pivot = next(bases, None)
    while True:
        price, *rest = run.meter.costs.prices(steps)
        count = int((run.meter.left - sum(rest)) / price * (1 + 1e-9))
        if count < 1:
            break
        tried: dict[int, Recipe] = {}
        if pivot is None:
            base = run.add()
            tried[base] = (run.candidates[base].seed,)
        else:
            base = pivot.index
        noise = tried[base] if pivot is None else pivot.noise
        for number in range(min(options.neighbours, count - len(tried))):
            index = run.derive(base, "neighbour", number)
            tried[index] = (*noise, run.candidates[index].seed)
        if tried:
            run.planned += len(tried) * price
            pivot = _try(run, pivot, tried, steps)
        if pivot is not None and pivot.index == base:
            _finish(run, pivot)
            pivot = next(bases, None)
        run.end_round()
    if pivot is not None:
        _finish(run, pivot)


def _try(run: Run, pivot: Pivot | None, tried: dict[int, Recipe], steps: list[int]) -> Pivot:
    """The best of a pivot and its neighbours."""
    run.alive = len(tried)
    start = run.start_from(list(tried), list(tried.values()))
    group, values = run.reach(start, steps[0] if steps else run.last)
    if pivot is not None:
        values = np.concatenate([pivot.values, values], axis=1)
    best = int(keep_best(merit(values), 1)[0])
    row = best - (pivot is not None)
    if steps:
        run.drop(group, [row] if row >= 0 else [])
    if pivot is not None:
        if row < 0:
            return pivot
        if steps:
            run.candidates[pivot.index].pruned_at = steps[0]
    index = group.who[row]
    kept = run.select(group, [row]) if steps else None
    return Pivot(index, tried[index], values[:, [best]], kept)


def _finish(run: Run, pivot: Pivot) -> None:
    if pivot.group is not None:
        run.planned += sum(run.meter.costs.prices([pivot.group.state.index])[1:])
        run.alive = 1
        run.reach(pivot.group, run.last)
