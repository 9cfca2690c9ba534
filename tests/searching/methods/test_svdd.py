"""SVDD and CoDe: one trajectory, which follows one of several branches."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searches import COSTS, LAST, STEPS, Models, images_close
from ttsnap.searching.methods.beam import Beam, Fork
from ttsnap.searching.methods.code import Code, blocks
from ttsnap.searching.methods.svdd import Svdd, soft


def test_svdd_follows_the_best_of_its_branches(models: Models) -> None:
    """arXiv 2408.08252, at α = 0."""
    budget = 1 + 3 * 3 * (1 + COSTS.verify)
    result = models.search("svdd", Svdd(noises=3), budget=budget)
    assert result.spent == pytest.approx(budget)
    for step in range(1, LAST):
        looked = {i: c.scores[step] for i, c in enumerate(result.candidates) if step in c.scores}
        best = max(looked, key=lambda i: looked[i])
        assert len(looked) == 3
        assert [i for i in looked if result.candidates[i].pruned_at != step] == [best]
        following = [i for i, c in enumerate(result.candidates) if step + 1 in c.scores]
        assert all(i == best or result.candidates[i].parent == best for i in following)
    assert result.score == max(c.rewards["clip0"] for c in result.candidates if c.rewards)


def test_svdd_is_a_beam_of_one(models: Models) -> None:
    first = models.search("svdd", Svdd(noises=2))
    second = models.search("beam", Beam(beams=1, noises=2))
    assert [c.noises for c in first.candidates] == [c.noises for c in second.candidates]


def test_branches_are_drawn_in_proportion_to_their_value() -> None:
    """w ∝ exp(v / α), in deviations; one that failed has no share."""
    values = np.array([[1.0, 2.0, 3.0, np.nan]])
    deviations = (values[0, :3] - 2) / np.std(values[0, :3])
    expected = np.exp(deviations / 0.5) / np.exp(deviations / 0.5).sum()
    draws = [int(soft(0.5, values, 1, (i + 0.5) / 1000)[0]) for i in range(1000)]
    shares = np.bincount(draws, minlength=4) / 1000
    np.testing.assert_allclose(shares, [*expected, 0], atol=2e-3)


def test_a_soft_choice_is_not_always_the_best(models: Models) -> None:
    budget = 60.0
    hard, warm = (
        models.search("svdd", Svdd(noises=3, temperature=t), budget=budget) for t in (0.0, 100.0)
    )
    assert [c.seed for c in hard.candidates] != [c.seed for c in warm.candidates]


def test_code_runs_branches_through_a_block(models: Models) -> None:
    """arXiv 2502.00968: each branch has noises of its own all through the block."""
    # The first evaluation is shared; then 3 branches through 2 steps, and through the last one.
    budget = 1 + 3 * (2 + COSTS.verify) + 3 * (1 + COSTS.verify)
    result = models.search("code", Code(noises=3, block=2), budget=budget)
    assert result.spent == pytest.approx(budget)
    assert {step for c in result.candidates for step in c.scores} == {2, LAST}
    looked = [c for c in result.candidates if 2 in c.scores]
    assert len({c.noises[1] for c in looked}) == len({c.noises[2] for c in looked}) == 3
    assert len({c.noises[0] for c in looked}) == 1
    best = max(looked, key=lambda c: c.scores[2])
    assert [c for c in looked if c.pruned_at is None] == [best]
    finals = [c for c in result.candidates if c.rewards]
    assert len(finals) == 3
    assert all(c.noises[:3] == best.noises[:3] for c in finals)


def test_code_with_blocks_of_one_step_is_svdd(models: Models) -> None:
    first = models.search("code", Code(noises=2, block=1))
    second = models.search("svdd", Svdd(noises=2))
    assert images_close(first.image, second.image)
    assert [c.noises for c in first.candidates] == [c.noises for c in second.candidates]


def test_code_with_one_block_is_best_of_n_from_one_noise(models: Models) -> None:
    result = models.search("code", Code(noises=5, block=STEPS), budget=1 + 5 * (3 + COSTS.verify))
    assert len(result.candidates) == 5
    assert all(c.rewards for c in result.candidates)
    assert len({c.noises[0] for c in result.candidates}) == 1


def test_blocks_branch_by_their_first_noise() -> None:
    assert blocks([0, 1, 2, 3, 4, 5], 3, 6) == [Fork(0, 3), Fork(3, 6)]
    assert blocks([0, 1, 2, 3, 4, 5], 4, 6) == [Fork(0, 4), Fork(4, 6)]
    assert blocks([4, 7], 3, 10) == [Fork(4, 6), Fork(7, 9)]
