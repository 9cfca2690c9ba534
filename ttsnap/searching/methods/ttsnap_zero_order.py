"""Prune first, then climb from the noise of the survivors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttsnap.schedule import Schedule, check_steps
from ttsnap.searching.methods.pruning import prune
from ttsnap.searching.methods.zero_order import Pivot, climb

if TYPE_CHECKING:
    from ttsnap.searching.engine import Run
    from ttsnap.searching.methods import Refinement


def refine(run: Run, options: Refinement) -> None:
    """TTSnap with a part of the budget, then zero-order search from its finals, the best first.

    Neighbours are finished and compared by their final images.
    """
    schedule = Schedule.parse(options.schedule)
    check_steps(schedule, run.sampler.steps)
    run.meter.affordable(schedule)
    costs = run.meter.costs
    prune(run, schedule, max(1, costs.largest_n((1 - options.share) * run.task.budget, schedule)))
    run.end_round()
    survivors = [
        Pivot(i, run.candidates[i].noises[0], run.final(i)[:, None], None) for i in run.ranked()
    ]
    climb(run, options, Schedule(), iter(survivors))
