"""Zero-order search: hill climbing over the initial noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from ttsnap.config import StepIndex
from ttsnap.schedule import Check, Schedule, check_steps
from ttsnap.searching.ledger import best
from ttsnap.searching.methods.base import Method, MethodOptions

if TYPE_CHECKING:
    from ttsnap.searching.executor import Cohort, Executor
    from ttsnap.searching.noise import Move, Recipe


class Climbing(MethodOptions):
    """Hill climbing over the initial noise (arXiv 2501.09732, section 4.1)."""

    neighbours: int = Field(4, ge=0, description="Neighbours tried around a noise at once.")
    threshold: float = Field(
        0.95, gt=-1, lt=1, description="Cosine between a noise and its neighbours."
    )

    def move(self) -> Move:
        """To a neighbour, over the sphere of all noise of the same norm."""
        from ttsnap.searching.noise import sphere

        return sphere(self.threshold)


class ZeroOrder(Climbing):
    """Hill climbing over the initial noise, from one fresh noise after the other."""

    step: StepIndex | None = Field(
        None,
        description="Step index at which noises are compared, by its verifier; only the top of a "
        "hill is finished. null compares final images.",
    )


@dataclass(frozen=True, eq=False)
class Pivot:
    """A candidate whose neighbours are tried.

    Attributes:
        index: of the candidate.
        noise: recipe of its initial noise.
        values: its scores (R, 1) where candidates are compared.
        cohort: the candidate evaluated there; None if its final image is already known.
    """

    index: int
    noise: Recipe
    values: np.ndarray
    cohort: Cohort | None


def zero_order(run: Executor, options: ZeroOrder) -> None:
    """Climb from noise to better noise until the budget is spent (arXiv 2501.09732, section 4.1).

    Candidates are compared by their final images, or at one earlier step, by its verifier; then
    only the top of each hill is finished. The last round has as many neighbours as the budget
    affords.
    """
    schedule = Schedule() if options.step is None else Schedule((Check(options.step, 1.0),))
    check_steps(schedule, run.sampler.steps)
    run.meter.affordable(schedule)
    climb(run, options, schedule, iter(()))


def climb(run: Executor, options: Climbing, schedule: Schedule, bases: Iterator[Pivot]) -> None:
    """Climb from each of ``bases``, then from fresh noise, until the budget is spent.

    A round tries neighbours of a noise. If one is better, it is climbed to; if not, the next base
    is climbed from. Neighbours keep the noises of their base's steps, where the sampler adds any.

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
        count = run.meter.count(price, spare=sum(rest))
        if count < 1:
            break
        tried: dict[int, Recipe] = {}
        if pivot is None:
            base = run.begin()
            tried[base] = (run.ledger.candidates[base].seed,)
        else:
            base = pivot.index
        noise = tried[base] if pivot is None else pivot.noise
        for number in range(min(options.neighbours, count - len(tried))):
            index = run.ledger.derive(base, "neighbour", number)
            tried[index] = (*noise, run.ledger.candidates[index].seed)
        if tried:
            run.planned += len(tried) * price
            pivot = _try(run, pivot, tried, steps)
        if pivot is not None and pivot.index == base:
            _finish(run, pivot)
            pivot = next(bases, None)
        run.ledger.end_round()
    if pivot is not None:
        _finish(run, pivot)


def _try(run: Executor, pivot: Pivot | None, tried: dict[int, Recipe], steps: list[int]) -> Pivot:
    """The best of a pivot and its neighbours."""
    run.alive = len(tried)
    start = run.start_from(list(tried), list(tried.values()))
    cohort, values = run.reach(start, steps[0] if steps else run.last)
    if pivot is not None:
        values = np.concatenate([pivot.values, values], axis=1)
    top = int(best(values, 1)[0])
    row = top - (pivot is not None)
    if steps:
        run.drop(cohort, [row] if row >= 0 else [])
    if pivot is not None:
        if row < 0:
            return pivot
        if steps:
            run.ledger.drop([pivot.index], steps[0])
    index = cohort.who[row]
    kept = run.select(cohort, [row]) if steps else None
    return Pivot(index, tried[index], values[:, [top]], kept)


def _finish(run: Executor, pivot: Pivot) -> None:
    if pivot.cohort is not None:
        run.planned += sum(run.meter.costs.prices([pivot.cohort.state.index])[1:])
        run.alive = 1
        run.reach(pivot.cohort, run.last)


METHOD = Method(
    "zero-order",
    "climb from noise to better noise near by, begin anew where none is better",
    zero_order,
    ZeroOrder,
)
