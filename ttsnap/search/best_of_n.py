"""Best-of-N: finish every candidate, keep the one with the highest reward."""

from __future__ import annotations

from ttsnap.schedule import Schedule
from ttsnap.search.pruning import prune
from ttsnap.search.result import SearchResult
from ttsnap.search.task import Task


def best_of_n(task: Task) -> SearchResult:
    """Run as many candidates as the budget affords to the end.

    Raises:
        UserError: the budget does not afford one.
    """
    return prune(task, Schedule(), {}, "best-of-n")
