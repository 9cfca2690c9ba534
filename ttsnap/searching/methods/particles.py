"""Particles that are weighed at looks and drawn anew: what Sequential Monte Carlo methods share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveFloat

from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.schedule import Schedule
from ttsnap.searching.methods.base import MethodOptions
from ttsnap.searching.methods.pruning import begin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ttsnap.searching.executor import Cohort, Executor

LOOKS = 4


class Particles(MethodOptions):
    """What weighs a particle."""

    strength: float = Field(
        2.0,
        ge=0,
        description="Inverse temperature λ of the weights, per deviation of a reward at the first "
        "look at a prompt.",
    )
    per_unit: PositiveFloat | None = Field(
        None, description="λ per unit of the reward itself, in place of strength."
    )


def systematic(weights: np.ndarray, count: int, offset: float) -> np.ndarray:
    """Indices (count,), ascending, each drawn weight x count times to the next integers.

    Systematic resampling (Kitagawa 1996, appendix): one draw decides all. With equal weights and
    as many drawn, every index comes once.

    Args:
        weights: (n,), summing to 1.
        count: how many to draw.
        offset: the draw, uniform in [0, 1).
    """
    positions = (offset + np.arange(count)) / count
    return np.searchsorted(np.cumsum(weights), positions, side="right").clip(max=len(weights) - 1)


@dataclass(frozen=True)
class Weighing:
    """How particles are weighed and drawn.

    Attributes:
        log_potential: of λ r at all looks so far (k, n), and of whether the latest is at the final
            image: log G (n,) that weights are multiplied by.
        temper: of a look's step: what λ is multiplied by there; at the final image it is 1.
        threshold: particles are drawn anew where the effective number of them falls below this
            share of their number; else they keep their weights.
        draw: who goes on, as :func:`systematic` says it; up to as many.
    """

    log_potential: Callable[[np.ndarray, bool], np.ndarray]
    temper: Callable[[int], float] = lambda step: 1.0
    threshold: float = 1.0
    draw: Callable[[np.ndarray, int, float], np.ndarray] = systematic


def sample(run: Executor, options: Particles, schedule: Schedule, weighing: Weighing) -> None:
    """Do what :func:`resample` does, and record the weights that finals would be sampled with."""
    finals, weights = resample(run, options, schedule, weighing)
    for index, weight in zip(finals.who, weights, strict=True):
        run.ledger.candidates[index].weight = float(weight)


def resample(
    run: Executor, options: Particles, schedule: Schedule, weighing: Weighing
) -> tuple[Cohort, np.ndarray]:
    """Run as many particles as the budget affords through the looks of ``schedule``.

    At each one as many go on as it keeps, drawn by their weights; of several rewards the mean of
    λ r is taken.

    Returns:
        The finals, and their weights (n,), which sum to 1.
    """
    steps = [check.step for check in schedule.checks]
    count = run.meter.affordable(schedule)
    first, *_ = run.meter.costs.prices(steps)
    run.planned += count * first
    run.message = "particles"
    cohort, values = begin(run, schedule, count)
    scale = inverse_temperatures(values, options)
    history = np.zeros((0, len(cohort)))  # λ r at each look, of each particle's ancestors
    logs = np.zeros(len(cohort))  # weights since they were drawn last
    for i, following in enumerate([*steps[1:], run.last]):
        history, alive = _remember(history, values, scale * weighing.temper(steps[i]))
        logs = logs + weighing.log_potential(history, False)
        weights = softmax(logs, alive)
        rest, prices = Schedule(schedule.checks[i + 1 :]), run.meter.costs.prices(steps)[i + 1 :]
        count = schedule.checks[i].survivors(len(cohort))
        while count > 1 and not run.meter.affords(sum(map(mul, rest.counts(count), prices))):
            count -= 1
        parents = np.arange(len(cohort))
        if count < len(cohort) or effective(weights) < weighing.threshold * len(cohort):
            offset = seed_of(run.ledger.candidates[0].seed, "resampling", steps[i]) / 2**63
            parents = weighing.draw(weights, count, offset)
            logs = np.zeros(len(cohort))
        run.drop(cohort, parents)
        run.planned += len(parents) * prices[0]
        history, logs = history[:, parents], logs[parents]
        cohort, values = run.reach(run.branch(cohort, parents), following)
    history, alive = _remember(history, values, scale)
    return cohort, softmax(logs + weighing.log_potential(history, True), alive)


def looks(run: Executor, steps: Sequence[int] | None, default: Sequence[int]) -> list[int]:
    """Steps at which candidates are looked at and branch, by whose noise branches differ.

    Args:
        run: the search.
        steps: that were asked for.
        default: if none were.

    Raises:
        UserError: at one that was asked for they would not differ.
    """
    if steps is None:
        return list(default)
    for step in (asked := run.check_looks(steps)):
        if step not in run.noisy:
            raise UserError(
                f"method {run.task.method}: steps: the noise of step {step} has no effect, so that "
                f"branches would be the same; it has at {', '.join(map(str, run.noisy))}"
            )
    return asked


def evenly(noisy: Sequence[int], count: int = LOOKS) -> list[int]:
    """The default looks among ``noisy`` steps: ``count``, or fewer if there are not as many."""
    places = np.linspace(0, len(noisy), count + 2)[1:-1].round()
    return sorted({noisy[int(place)] for place in places if place < len(noisy)})


def inverse_temperatures(values: np.ndarray, options: Particles) -> np.ndarray:
    """λ of each reward, (R,) per unit of it, from scores (R, n) at the first look."""
    if options.per_unit is not None:
        return np.full(len(values), options.per_unit)
    deviations = np.array(
        [row[~np.isnan(row)].std() if not np.isnan(row).all() else 0.0 for row in values]
    )
    return options.strength / np.where(deviations > 0, deviations, 1.0)


def gain(history: np.ndarray, final: bool = False) -> np.ndarray:
    """log G (n,) that telescopes: what λ r gained since the look before; 0 counts before the first.

    Over all looks of a trajectory, the final image among them, it adds up to λ r of that.
    """
    return history[-1] - (history[-2] if len(history) > 1 else 0.0)


def _remember(
    history: np.ndarray, values: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``history`` with the look at scores (R, n), and who could be scored (n,).

    A particle that could not keeps what it had, in case that all could not.
    """
    gains = (scale[:, None] * values.astype(np.float64)).mean(axis=0)
    alive = np.isfinite(gains)
    before = history[-1] if len(history) else np.zeros(len(gains))
    return np.concatenate([history, [np.where(alive, gains, before)]]), alive


def softmax(logs: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Weights (n,) that sum to 1, none for those that are not ``alive``; all equal if none is."""
    if not alive.any():
        return np.full(len(logs), 1 / len(logs))
    weights = np.zeros(len(logs))
    weights[alive] = np.exp(logs[alive] - logs[alive].max())
    return weights / weights.sum()


def effective(weights: np.ndarray) -> float:
    """Effective number of particles: 1 / Σ w² of weights (n,) that sum to 1."""
    return 1 / float((weights**2).sum())
