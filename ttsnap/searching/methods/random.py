"""Random search in growing rounds, which keeps the best image of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttsnap.schedule import Schedule
from ttsnap.searching.methods.base import Method, MethodOptions
from ttsnap.searching.methods.pruning import affordable, prune

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


def random_search(run: Executor, options: MethodOptions) -> None:
    """Finish 2, 4, 8, … candidates from fresh noise, round after round (arXiv 2501.09732).

    The last round is cut to what the budget affords.
    """
    size = 2
    while count := affordable(run):
        prune(run, Schedule(), min(size, count))
        run.ledger.end_round()
        size *= 2


METHOD = Method(
    "random", "rounds of 2, 4, 8, … fresh noises, the best of all", random_search, negtome=True
)
