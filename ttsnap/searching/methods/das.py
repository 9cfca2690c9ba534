"""DAS: Sequential Monte Carlo by tempered targets, drawn anew only where weights are uneven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ttsnap.schedule import Check, Schedule
from ttsnap.searching.methods.base import Method, Steps
from ttsnap.searching.methods.particles import Particles, Weighing, gain, looks, sample

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Das(Particles):
    """Tempered Sequential Monte Carlo (arXiv 2501.05803)."""

    tempering: float = Field(
        0.008,
        gt=0,
        description="λ of a look is multiplied by (1 + this)^p − 1 after p per cent of the steps, "
        "up to 1.",
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Particles are resampled where fewer than this share of them are effective.",
    )
    steps: Steps | None = Field(
        None, description="Step indices of the looks; null is every step whose noise has an effect."
    )


def das(run: Executor, options: Das) -> None:
    """Weigh particles by tempered rewards, resample where weights are uneven (arXiv 2501.05803).

    At step t particles are to follow the model's distribution times exp(λ_t r of their estimates),
    where λ_t grows from 0, so that early estimates, which are poor, hardly count. A particle is
    weighed by what its exponent gained since the last look; weights add up until they are so uneven
    that the effective number of particles falls below a share of them, and only then particles
    are drawn anew. At the final image λ is whole.

    Read: the abstract and the authors' repository, krafton-ai/DAS. What differs: particles move as
    the model does, where theirs follow the gradient of the reward too, so that rewards need none;
    and they are drawn by systematic resampling, as elsewhere here.
    """
    steps = looks(run, options.steps, run.noisy)
    schedule = Schedule(tuple(Check(step, 1.0) for step in steps))

    def temper(step: int) -> float:
        percent = 100 * step / run.sampler.steps
        return float(min(1.0, (1 + options.tempering) ** percent - 1))

    sample(run, options, schedule, Weighing(gain, temper, options.threshold))


METHOD = Method(
    "das",
    "weigh candidates by tempered rewards, resample where weights are uneven",
    das,
    Das,
    needs_noise=True,
)
