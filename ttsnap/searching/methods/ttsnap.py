"""TTSnap (arXiv 2511.22242, section 3): prune by early estimates of the reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.pruning import Pruning, affordable, prune, scheduled

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


def ttsnap(run: Executor, options: Pruning) -> None:
    """Prune at the checks of a schedule (arXiv 2511.22242, section 3).

    The Tweedie estimates of a check's step are scored by its NARF checkpoints, the worst
    candidates are dropped, and the others go on. A step without checkpoints is checked by the
    rewards themselves, as all are in ttsp. As many candidates are started as the budget affords.
    """
    schedule = scheduled(run, options)
    prune(run, schedule, affordable(run, schedule))


METHOD = Method(
    "ttsnap",
    "prune candidates early by what NARF checkpoints say of their estimates",
    ttsnap,
    Pruning,
    negtome=True,
)
