"""Epsilon-greedy search over the noise of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.noise_zero_order import NoiseZeroOrder, search_noises

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class EpsGreedy(NoiseZeroOrder):
    """The same with a share of fresh noises, which explore (arXiv 2506.03164)."""

    epsilon: float = Field(0.4, ge=0, le=1, description="Probability of a fresh noise.")


def eps_greedy(run: Executor, options: EpsGreedy) -> None:
    """Choose the noise of every step by hill climbing that also explores (arXiv 2506.03164).

    As noise-zero-order, but that every noise tried is, with a small probability, a fresh one.
    """
    search_noises(run, options, options.epsilon)


METHOD = Method(
    "eps-greedy",
    "at every step climb from noise to better noise, some of it fresh",
    eps_greedy,
    EpsGreedy,
    needs_noise=True,
)
