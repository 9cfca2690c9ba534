"""Zero order."""

from __future__ import annotations

import pytest

from tests.searches import (
    COSTS,
    FULL,
    PROMPT,
    SEED,
    Models,
    images_close,
)
from ttsnap.prompts import seed_of
from ttsnap.searching.methods.zero_order import ZeroOrder


def test_zero_order_can_compare_noises_early(models: Models) -> None:
    options = ZeroOrder(neighbours=2, step=1)
    result = models.search("zero-order", options, verifiers={1: (models.rewards[1],)})
    early, rest = COSTS.prices([1])
    looked = [c for c in result.candidates if 1 in c.scores]
    finished = [c for c in result.candidates if c.rewards]
    assert len(looked) == len(result.candidates) > len(finished) >= 1
    assert result.spent == pytest.approx(len(looked) * early + len(finished) * rest)
    assert result.spent > result.budget - early - rest
    assert all((c.pruned_at == 1) == (not c.rewards) for c in looked)
    winner = result.candidates[result.winner]
    assert images_close(models.again("zero-order", winner, options), result.image)


def test_zero_order_climbs_until_nothing_near_is_better(models: Models) -> None:
    result = models.search("zero-order", ZeroOrder(neighbours=3), budget=40 * FULL)
    candidates = result.candidates
    scores = [c.rewards["clip0"] for c in candidates]
    base, moved, began = 0, 0, 0
    position = 1
    while position < len(candidates):
        near = [i for i, c in enumerate(candidates) if c.parent == base]
        assert near == list(range(position, min(position + 3, len(candidates))))
        for i in near:
            assert candidates[i].noises == ((*candidates[base].noises[0], candidates[i].seed),)
        position += len(near)
        best = max([base, *near], key=lambda i: scores[i])
        if best != base:
            base, moved = best, moved + 1
        elif position < len(candidates):
            base, began, position = position, began + 1, position + 1
            assert candidates[base].parent is None
            assert candidates[base].seed == seed_of(SEED, PROMPT.id, began)
    assert moved
    assert began
