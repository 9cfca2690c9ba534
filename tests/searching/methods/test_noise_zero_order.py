"""Noise zero order."""

from __future__ import annotations

import pytest

from tests.searches import (
    COSTS,
    FULL,
    LAST,
    Models,
)
from ttsnap.searching.methods.noise_zero_order import NoiseZeroOrder
from ttsnap.searching.methods.smc import Smc


def test_no_better_noise_is_given_up(models: Models) -> None:
    """The estimate one step ahead is at least as good as with the noise that was there first."""
    budget = 1 + LAST * 9 * (1 + COSTS.verify)
    climbed = models.search("noise-zero-order", NoiseZeroOrder(iterations=2), budget=budget)
    assert climbed.spent == pytest.approx(budget)
    assert climbed.nfe == 1 + LAST * 9
    looked = models.search("smc", Smc(strength=0.0, steps=[1]), budget=FULL + COSTS.verify)
    assert climbed.candidates[0].scores[1] >= looked.candidates[0].scores[1] - 1e-6
