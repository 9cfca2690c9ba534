"""SVDD: of many branches at every step, one goes on, by the value of its estimate."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt

from ttsnap.searching.ledger import standardised
from ttsnap.searching.methods.base import Method, MethodOptions
from ttsnap.searching.methods.beam import Fork, search, top
from ttsnap.searching.methods.particles import softmax, systematic

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Svdd(MethodOptions):
    """Soft value-based decoding (arXiv 2408.08252)."""

    noises: PositiveInt = Field(20, description="Noises tried at every step.")
    temperature: float = Field(
        0.0,
        ge=0,
        description="α of the choice among them, in deviations of their scores; 0 takes the best, "
        "as published for images.",
    )


def svdd(run: Executor, options: Svdd) -> None:
    """Choose the noise of every step by the value it leads to (arXiv 2408.08252).

    From each state several next ones are drawn. Their value is the reward of their estimates, and
    one goes on, with probability in proportion to exp(value / α); at α = 0 it is the best. Unlike
    in smc no trajectory competes with another. Where the budget does not pay for another
    trajectory with as many noises, the largest number that it does pay for is tried.

    Read: the abstract and the authors' repository, masa-ue/SVDD-image. What differs: final images
    are compared too, and α is in deviations of the scores, because rewards have different scales.
    """
    forks = [Fork(step, step + 1) for step in run.noisy]
    choose = partial(soft, options.temperature) if options.temperature else top
    search(run, forks, 1, options.noises, choose)


def soft(temperature: float, values: np.ndarray, count: int, draw: float) -> np.ndarray:
    """Indices (count,) drawn in proportion to exp(value / α), from scores (R, n).

    Args:
        temperature: α, in deviations of the scores.
        values: see above; a branch that could not be scored has no share.
        count: how many.
        draw: uniform in [0, 1).
    """
    scores = standardised(values) / temperature
    return systematic(softmax(scores, np.isfinite(scores)), count, draw)


METHOD = Method(
    "svdd",
    "at every step follow one of many branches, by their next estimates",
    svdd,
    Svdd,
    needs_noise=True,
)
