"""Rejection."""

from __future__ import annotations

import pytest

from tests.searches import (
    PROMPT,
    SEED,
    Models,
    images_close,
)
from ttsnap.prompts import seed_of


def test_rejection_is_best_of_n_by_hand(models: Models) -> None:
    result = models.search("rejection")
    seeds = [seed_of(SEED, PROMPT.id, i) for i in range(7)]
    images, scores = models.by_hand(models.noisy, seeds)
    assert [c.seed for c in result.candidates] == seeds
    assert result.winner == int(scores.argmax())
    assert [c.rewards["clip0"] for c in result.candidates] == pytest.approx(scores, abs=1e-5)
    assert images_close(result.image, images[result.winner])
