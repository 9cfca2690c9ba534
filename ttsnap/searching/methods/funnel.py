"""Funnel: Sequential Monte Carlo that keeps fewer particles as noise falls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ttsnap.schedule import Check, Schedule
from ttsnap.searching.methods.base import Method, Steps
from ttsnap.searching.methods.particles import Particles, Weighing, evenly, gain, looks, sample

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Funnel(Particles):
    """Fewer particles as noise falls, and early rewards that count for less (arXiv 2508.12361)."""

    left: float = Field(
        0.25, gt=0, le=1, description="Share of the particles that is left after the last look."
    )
    warming: float = Field(
        1.0,
        ge=0,
        description="λ rises with this power of the share of the steps that are done; 0 keeps it.",
    )
    steps: Steps | None = Field(
        None, description="Step indices of the resampling; null is four spread evenly."
    )


def funnel(run: Executor, options: Funnel) -> None:
    """Resample ever fewer particles, by rewards that count for more and more (arXiv 2508.12361).

    Early particles can still become anything but are hard to judge, late ones are well judged but
    decided. So many start, and at every look the same share of them is drawn to go on, in
    proportion to weights whose λ is small where noise is high. The weights telescope: over a
    trajectory they add up to λ r of its final image, as in smc, which this is with nothing dropped
    and λ kept.

    Only the abstract was to be had: how fast particles fall and λ rises is our choice.
    """
    steps = looks(run, options.steps, evenly(run.noisy))
    keep = options.left ** (1 / len(steps))
    schedule = Schedule(tuple(Check(step, keep) for step in steps))
    done = run.sampler.steps

    def temper(step: int) -> float:
        return float(((step + 1) / done) ** options.warming)

    sample(run, options, schedule, Weighing(gain, temper))


METHOD = Method(
    "funnel",
    "resample ever fewer candidates, by rewards that count for more as noise falls",
    funnel,
    Funnel,
    needs_noise=True,
)
