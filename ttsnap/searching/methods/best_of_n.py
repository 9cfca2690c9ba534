"""Best-of-N."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttsnap.schedule import Schedule
from ttsnap.searching.methods.base import Method, MethodOptions
from ttsnap.searching.methods.pruning import affordable, prune

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


def best_of_n(run: Executor, options: MethodOptions) -> None:
    """Finish as many candidates as the budget affords, each from noise of its own."""
    prune(run, Schedule(), affordable(run))


METHOD = Method("best-of-n", "finish every candidate, take the best", best_of_n, negtome=True)
