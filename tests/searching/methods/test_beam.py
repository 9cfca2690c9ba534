"""Beam."""

from __future__ import annotations

import pytest

from tests.searches import (
    COSTS,
    FULL,
    LAST,
    PROMPT,
    SEED,
    STEPS,
    Models,
    images_close,
)
from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.searching.executor import Executor
from ttsnap.searching.methods.beam import Beam


def test_one_beam_of_one_noise_is_a_plain_run(models: Models) -> None:
    result = models.search("beam", Beam(beams=1, noises=1), budget=FULL)
    images, scores = models.by_hand(models.noisy, [seed_of(SEED, PROMPT.id, 0)])
    assert images_close(result.image, images[0])
    assert result.score == pytest.approx(scores[0], abs=1e-5)
    assert (result.nfe, result.scored) == (STEPS, 1)


def test_a_beam_keeps_the_best_branches(models: Models) -> None:
    # 2 evaluations before the first noise, 2 x 3 after each of 3, all of these looked at.
    budget = 2 + 3 * 6 * (1 + COSTS.verify)
    result = models.search("beam", Beam(beams=2, noises=3), budget=budget)
    assert result.spent == pytest.approx(budget)
    assert (result.nfe, result.scored) == (20, 18)
    for step in range(1, LAST):
        looked = {i: c.scores[step] for i, c in enumerate(result.candidates) if step in c.scores}
        assert len(looked) == 6
        kept = sorted(looked, key=lambda i: -looked[i])[:2]
        pruned = {i for i in looked if result.candidates[i].pruned_at == step}
        assert pruned == set(looked) - set(kept)
        following = [c for c in result.candidates if step + 1 in c.scores]
        assert all(c.parent in kept for c in following if step not in c.scores)


def test_a_beam_looks_where_it_is_told(models: Models) -> None:
    result = models.search("beam", Beam(beams=1, noises=2, steps=[2]), budget=2 + 4 * (1 + 0.375))
    assert result.nfe == 2 + 4
    assert {step for c in result.candidates for step in c.scores} == {2, 3}
    with pytest.raises(UserError, match="method beam: steps: 3 is no step from 1 to 2"):
        models.search("beam", Beam(steps=[3]))


def test_beams_branch_by_the_last_noise_before_a_look(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where noise acts at step 0 alone, branches that are seen at step 2 cost two evaluations."""
    monkeypatch.setattr(Executor, "noisy", property(lambda run: [0]))
    result = models.search("beam", Beam(beams=1, noises=3, steps=[2]), budget=8 + 4 * COSTS.verify)
    assert (result.nfe, result.scored) == (1 + 3 * 2 + 1, 3 + 1)
    assert result.planned == pytest.approx(result.spent) == result.budget
    with pytest.raises(UserError, match="no noise makes candidates differ from step 1 to 2"):
        models.search("beam", Beam(steps=[1, 2]))
