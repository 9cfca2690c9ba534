"""Random search in growing rounds, which keeps the best image of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttsnap.schedule import Schedule
from ttsnap.searching.methods.pruning import prune

if TYPE_CHECKING:
    from ttsnap.searching.engine import Run
    from ttsnap.searching.methods import NoOptions


def random_search(run: Run, options: NoOptions) -> None:
    """Finish 2, 4, 8, … candidates from fresh noise, round after round (arXiv 2501.09732).

    The last round is cut to what the budget affords.
    """
    size = 2
    while count := run.meter.affordable():
        prune(run, Schedule(), min(size, count))
        run.end_round()
        size *= 2
