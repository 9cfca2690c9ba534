"""Noise."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searches import Models
from ttsnap.searching.noise import NoiseSource, ball, sphere


def test_moves_keep_to_their_distance(models: Models) -> None:
    base, moved = NoiseSource(models.plain, sphere(0.9))([(1,), (1, 2)])
    assert float(moved.norm()) == pytest.approx(float(base.norm()), rel=1e-5)
    cosine = (base * moved).sum() / base.norm() ** 2
    assert float(cosine) == pytest.approx(0.9, abs=1e-5)
    draw = NoiseSource(models.plain, ball(0.15))
    apart = [float((draw([(1, seed)]) - base).norm()) for seed in range(50)]
    assert 0 < min(apart) < max(apart) < 0.15 * base.numel() ** 0.5
    assert max(apart) > 0.13 * base.numel() ** 0.5
    np.testing.assert_array_equal(
        draw([(1, 2, 3)]), NoiseSource(models.plain, ball(0.15))([(1, 2, 3)])
    )
