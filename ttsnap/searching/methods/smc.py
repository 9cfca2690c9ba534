"""Sequential Monte Carlo over the noise of the steps: Feynman-Kac steering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.schedule import Check, Schedule
from ttsnap.searching.methods.base import Method, MethodOptions, Steps
from ttsnap.searching.methods.pruning import begin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ttsnap.searching.executor import Executor

Potential = Literal["difference", "max", "sum"]

RESAMPLINGS = 4


class Smc(MethodOptions):
    """Sequential Monte Carlo: Feynman-Kac steering (arXiv 2501.06848)."""

    strength: float = Field(
        2.0,
        ge=0,
        description="Inverse temperature λ of the weights, per deviation of a reward at the first "
        "look at a prompt.",
    )
    per_unit: PositiveFloat | None = Field(
        None, description="λ per unit of the reward itself, in place of strength."
    )
    potential: Potential = Field(
        "difference",
        description="What weighs a particle: its gain since the last look, its best so far, or the "
        "sum of its looks.",
    )
    steps: Steps | None = Field(
        None, description="Step indices of the resampling; null is four spread evenly."
    )


def smc(run: Executor, options: Smc) -> None:
    """Resample particles in proportion to their weights (arXiv 2501.06848, algorithm 1).

    There are as many particles as the budget affords. Of several rewards the mean of λ r is taken.
    The best final image wins; the weights that the finals would be sampled with are recorded.
    """
    steps = _looks(run, options)
    schedule = Schedule(tuple(Check(step, 1.0) for step in steps))
    count = run.meter.affordable(schedule)
    run.planned += run.meter.costs.cost(count, schedule)
    run.message = "particles"
    cohort, values = begin(run, schedule, count)
    count = len(cohort)
    scale = inverse_temperatures(values, options)
    history = np.zeros((0, count))  # λ r at each look, of each particle's ancestors
    for i, following in enumerate([*steps[1:], run.last]):
        history, alive = _remember(history, values, scale)
        weights = softmax(log_potential(options.potential, history), alive)
        prices = run.meter.costs.prices(steps)[i + 1 :]
        while count > 1 and not run.meter.affords(count * sum(prices)):
            count -= 1
        offset = seed_of(run.ledger.candidates[0].seed, "resampling", steps[i]) / 2**63
        parents = systematic(weights, count, offset)
        run.drop(cohort, parents)
        history = history[:, parents]
        cohort, values = run.reach(run.branch(cohort, parents), following)
    history, alive = _remember(history, values, scale)
    shares = softmax(log_potential(options.potential, history, final=True), alive)
    for index, share in zip(cohort.who, shares, strict=True):
        run.ledger.candidates[index].weight = float(share)


def _looks(run: Executor, options: Smc) -> list[int]:
    """Steps at which particles are looked at and resampled, by whose noise branches differ.

    Raises:
        UserError: at one that was asked for they would not.
    """
    if options.steps is None:
        return evenly(run.noisy)
    for step in (looks := run.check_looks(options.steps)):
        if step not in run.noisy:
            raise UserError(
                f"method smc: steps: the noise of step {step} has no effect, so that branches "
                f"would be the same; it has at {', '.join(map(str, run.noisy))}"
            )
    return looks


def evenly(noisy: Sequence[int]) -> list[int]:
    """The default looks among ``noisy`` steps: four, or fewer if there are not as many."""
    places = np.linspace(0, len(noisy), RESAMPLINGS + 2)[1:-1].round()
    return sorted({noisy[int(place)] for place in places if place < len(noisy)})


def inverse_temperatures(values: np.ndarray, options: Smc) -> np.ndarray:
    """λ of each reward, (R,) per unit of it, from scores (R, n) at the first look."""
    if options.per_unit is not None:
        return np.full(len(values), options.per_unit)
    deviations = np.array(
        [row[~np.isnan(row)].std() if not np.isnan(row).all() else 0.0 for row in values]
    )
    return options.strength / np.where(deviations > 0, deviations, 1.0)


def log_potential(kind: Potential, history: np.ndarray, final: bool = False) -> np.ndarray:
    """log G_k (n,) of each particle at its latest look (arXiv 2501.06848, section 3).

    Over all looks of a trajectory, the final image among them, they add up to λ r of the final
    image whichever kind it is: differences telescope, and for the others the last potential takes
    back what the earlier ones gave.

    Args:
        kind: which potential.
        history: (k, n), λ r at each look so far; before the first, r counts as 0.
        final: whether the latest look is at the final image.
    """
    if kind == "difference":
        return history[-1] - (history[-2] if len(history) > 1 else 0.0)
    if final:
        earlier = sum(
            (log_potential(kind, history[:k]) for k in range(1, len(history))),
            np.zeros(history.shape[1]),
        )
        return history[-1] - earlier
    summed: np.ndarray = history.max(axis=0) if kind == "max" else history.sum(axis=0)
    return summed


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


METHOD = Method(
    "smc", "resample candidates in proportion to their weights", smc, Smc, needs_noise=True
)
