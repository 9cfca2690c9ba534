"""TTSnap (arXiv 2511.22242, section 3): prune by early estimates of the reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.pruning import Pruning, affordable, prune

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


def ttsnap(run: Executor, options: Pruning) -> None:
    """Prune at the checks of a schedule, by the verifiers of their steps.

    A step without a verifier is checked by the rewards themselves.
    """
    schedule = options.checks(run.sampler.steps)
    prune(run, schedule, affordable(run, schedule))


METHOD = Method(
    "ttsnap",
    "prune candidates early by what NARF checkpoints say of their estimates",
    ttsnap,
    Pruning,
    negtome=True,
)
