"""Random."""

from __future__ import annotations

import pytest

from tests.searches import Models
from ttsnap.searching.methods.zero_order import ZeroOrder


def test_random_rounds_and_climbing_nowhere_are_best_of_n(models: Models) -> None:
    best = models.search("best-of-n")
    rounds = models.search("random")
    alone = models.search("zero-order", ZeroOrder(neighbours=0))
    assert [r.num_noises for r in rounds.rounds] == [2, 4, 1]
    for other in (rounds, alone):
        assert other.seed == best.seed
        # Batches of other sizes round otherwise, and a pixel can fall to its next of 256 values.
        assert other.score == pytest.approx(best.score, abs=1e-2)
        assert [c.seed for c in other.candidates] == [c.seed for c in best.candidates]
