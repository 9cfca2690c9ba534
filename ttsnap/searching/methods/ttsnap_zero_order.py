"""Prune first, then climb from the noise of the survivors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ttsnap.schedule import Schedule
from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.pruning import Pruning, affordable, largest, prune, scheduled
from ttsnap.searching.methods.zero_order import Climbing, Pivot, climb

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Refinement(Pruning, Climbing):
    """Pruning, then hill climbing from the survivors, the best one first."""

    share: float = Field(0.3, gt=0, lt=1, description="Share of the budget kept for climbing.")


def refine(run: Executor, options: Refinement) -> None:
    """TTSnap with a part of the budget, then zero-order search from its finals, the best first.

    The two are those of arXiv 2511.22242, section 3, and arXiv 2501.09732, section 4.1.
    Neighbours are finished and compared by their final images.
    """
    schedule = scheduled(run, options)
    affordable(run, schedule)
    prune(run, schedule, max(1, largest(run, schedule, (1 - options.share) * run.task.budget)))
    ledger = run.ledger
    ledger.end_round()
    survivors = [
        Pivot(i, ledger.candidates[i].noises[0], ledger.final(i)[:, None], None)
        for i in ledger.ranked()
    ]
    climb(run, options, Schedule(), iter(survivors))


METHOD = Method(
    "ttsnap+zero-order",
    "prune first, then climb from the survivors",
    refine,
    Refinement,
    negtome=True,
)
