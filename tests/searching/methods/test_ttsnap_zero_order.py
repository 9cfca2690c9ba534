"""Ttsnap zero order."""

from __future__ import annotations

from tests.searches import (
    FULL,
    Models,
)
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.methods.ttsnap_zero_order import Refinement


def test_refinement_climbs_from_the_best_survivor(models: Models) -> None:
    options = Refinement(schedule="1:0.5", neighbours=2, share=0.5)
    result = models.search("ttsnap+zero-order", options, budget=12 * FULL)
    pruning = models.search("ttsnap", Pruning(schedule="1:0.5"), budget=6 * FULL)
    n = len(pruning.candidates)
    assert [c.seed for c in result.candidates[:n]] == [c.seed for c in pruning.candidates]
    assert result.rounds[0].best == pruning.winner
    assert result.candidates[n].parent == pruning.winner
    assert result.candidates[n].origin == f"neighbour of {pruning.winner}"
    assert result.score >= pruning.score
