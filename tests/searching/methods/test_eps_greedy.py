"""Eps greedy."""

from __future__ import annotations

import numpy as np

from tests.searches import (
    FULL,
    LAST,
    STEPS,
    Models,
)
from ttsnap.searching.methods.beam import Beam
from ttsnap.searching.methods.eps_greedy import EpsGreedy


def test_greed_without_epsilon_is_zero_order(models: Models) -> None:
    greedy = models.search("eps-greedy", EpsGreedy(noises=2, iterations=2, epsilon=0.0))
    climbing = models.search("noise-zero-order")
    assert [c.noises for c in greedy.candidates] == [c.noises for c in climbing.candidates]
    np.testing.assert_array_equal(greedy.image, climbing.image)
    exploring = models.search("eps-greedy", EpsGreedy(noises=2, iterations=2, epsilon=1.0))
    assert all(len(recipe) == 1 for c in exploring.candidates for recipe in c.noises)
    assert any(len(recipe) > 1 for c in climbing.candidates for recipe in c.noises)


def test_a_small_budget_gets_a_smaller_search(models: Models) -> None:
    result = models.search("eps-greedy", EpsGreedy(), budget=FULL)
    assert (result.nfe, result.scored) == (STEPS, 1)
    result = models.search("eps-greedy", EpsGreedy(), budget=1 + LAST * 5 * 1.375)
    assert result.nfe == 1 + LAST * 5  # one iteration of the four noises
    result = models.search("beam", Beam(), budget=1 + LAST * 2 * 1.375)
    assert result.nfe == 1 + LAST * 2  # one beam of two noises
