"""Verifier threshold: on to the next step only once a score passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ttsnap.searching.methods.base import Method, Steps
from ttsnap.searching.methods.particles import looks
from ttsnap.searching.methods.trying import Gate, Threshold, trajectories

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class VerifierThreshold(Threshold):
    """Noises are tried before each look until one passes it (arXiv 2512.08985)."""

    steps: Steps | None = Field(
        None, description="Step indices of the looks; null is every step whose noise has an effect."
    )


def verifier_threshold(run: Executor, options: VerifierThreshold) -> None:
    """Go on as soon as a score passes the threshold, else try another noise (arXiv 2512.08985).

    A seed is looked at; if its estimate does not pass, the next seed takes its turn. From the first
    that passes, noises of the step are tried in the same way, and so on to the final image; then
    another trajectory follows, until the budget is spent. So easy steps cost one try, and what they
    leave is there for hard ones. Where what is left only just pays for the rest of the way, the
    best that was tried goes on.

    Only the abstract was to be had. What differs: unless a threshold is given, it follows from the
    scores that the search has seen at that step, because rewards have different scales.
    """
    gate = Gate(options)
    trajectories(run, looks(run, options.steps, run.noisy), lambda: gate)


METHOD = Method(
    "verifier-threshold",
    "try noise after noise at every step until an estimate passes",
    verifier_threshold,
    VerifierThreshold,
    needs_noise=True,
)
