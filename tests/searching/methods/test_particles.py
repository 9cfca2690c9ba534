"""What das, funnel and bfs do with particles, beside smc."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searches import COSTS, FULL, Models
from ttsnap.errors import UserError
from ttsnap.searching.methods.bfs import Bfs, one, several
from ttsnap.searching.methods.das import Das
from ttsnap.searching.methods.funnel import Funnel
from ttsnap.searching.methods.particles import effective, softmax
from ttsnap.searching.methods.smc import Smc


def alive(count: int) -> np.ndarray:
    return np.full(count, True)


def test_effective_number_of_particles() -> None:
    assert effective(np.full(8, 1 / 8)) == pytest.approx(8)
    assert effective(np.array([1.0, 0.0])) == 1
    assert effective(np.array([0.5, 0.25, 0.25])) == pytest.approx(1 / 0.375)


def test_a_funnel_keeps_fewer_particles_as_noise_falls(models: Models) -> None:
    """arXiv 2508.12361: the same budget starts more, of which a quarter is finished."""
    options = Funnel(steps=[0, 1], left=0.25)
    budget = 16 * (1 + COSTS.check) + 8 * (1 + COSTS.check) + 4 * (2 + COSTS.verify)
    result = models.search("funnel", options, budget=budget)
    counts = [sum(step in c.scores for c in result.candidates) for step in (0, 1, 3)]
    assert counts == [16, 8, 4]
    assert result.spent == pytest.approx(budget)
    assert result.candidates[15].parent is None
    plain = models.search("smc", Smc(steps=[0, 1]), budget=budget)
    assert sum(0 in c.scores for c in plain.candidates) < 16


def test_a_funnel_that_drops_nothing_at_one_temperature_is_smc(models: Models) -> None:
    funnel = models.search("funnel", Funnel(left=1.0, warming=0.0))
    smc = models.search("smc", Smc())
    assert [c.noises for c in funnel.candidates] == [c.noises for c in smc.candidates]
    assert [c.weight for c in funnel.candidates] == [c.weight for c in smc.candidates]


def test_early_rewards_count_for_less_in_a_funnel(models: Models) -> None:
    """λ after 2 of 4 steps is half of it, and what was held back is made up for at the end."""
    options = Funnel(steps=[1], left=1.0, warming=1.0, per_unit=3.0)
    result = models.search("funnel", options)
    finals = [c for c in result.candidates if c.rewards]
    before = [one if one.parent is None else result.candidates[one.parent] for one in finals]
    logs = [
        3 * final.rewards["clip0"] - 1.5 * parent.scores[1]
        for final, parent in zip(finals, before, strict=True)
    ]
    weights = [final.weight for final in finals]
    np.testing.assert_allclose(weights, softmax(np.array(logs), alive(len(logs))), rtol=1e-4)


def test_das_tempers_and_waits_until_weights_are_uneven(models: Models) -> None:
    """arXiv 2501.05803 and its repository: λ_t = min(1, (1 + γ)^t − 1), for t of 100 steps.

    Where nothing is resampled, no particle branches, and weights are those of the final images.
    """
    options = Das(per_unit=2.0, threshold=0.0)
    result = models.search("das", options)
    assert all(c.parent is None and c.rewards for c in result.candidates)
    logs = np.array([2 * c.rewards["clip0"] for c in result.candidates])
    weights = [c.weight for c in result.candidates]
    np.testing.assert_allclose(weights, softmax(logs, alive(len(logs))), rtol=1e-4)


def test_das_resamples_by_what_tempered_rewards_gained(models: Models) -> None:
    """By hand: one look, at step 2 of 4, where λ is (1 + γ)^50 − 1 of the whole."""
    options = Das(per_unit=40.0, tempering=0.008, threshold=1.0, steps=[2])
    result = models.search("das", options)
    factor = 1.008**50 - 1
    assert 0.4 < factor < 0.5
    begun = [c for c in result.candidates if c.parent is None]
    weights = softmax(np.array([factor * 40 * c.scores[2] for c in begun]), alive(len(begun)))
    assert effective(weights) < len(begun)
    families = np.zeros(len(begun), int)
    for index, candidate in enumerate(result.candidates):
        if candidate.rewards:
            families[index if candidate.parent is None else candidate.parent] += 1
    assert families.sum() == len(begun)
    # Systematic resampling gives each particle its share, to the next whole number.
    assert (np.abs(families - weights * len(begun)) < 1).all()
    assert families.max() > 1


def test_children_of_a_level_are_whole_shares() -> None:
    """arXiv 2505.23614: as many children as n softmax says, rounded; pruning keeps one of each."""
    weights = np.array([0.05, 0.45, 0.3, 0.2])
    assert several(weights, 4, 0.9).tolist() == [1, 1, 2, 3]
    assert one(weights, 4, 0.9).tolist() == [1, 2, 3]
    assert several(np.full(5, 0.2), 5, 0.0).tolist() == [0, 1, 2, 3, 4]
    halves = np.array([0.375, 0.375, 0.125, 0.125])  # 1.5 of 4, which rounds up to 2
    assert several(halves, 4, 0.0).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("children", ["resampled", "pruned"])
def test_breadth_first_search_goes_level_by_level(models: Models, children: str) -> None:
    options = Bfs(strength=2.0, children=children, steps=[0, 2])  # type: ignore[arg-type]
    result = models.search("bfs", options, budget=12 * (FULL + 2 * COSTS.verify))
    rounds = [c for c in result.candidates if c.parent is None]
    first = [c for c in result.candidates[:12] if c.parent is None]
    assert len(first) == 12  # of the first search, as many as the budget affords
    scores = np.array([c.scores[0] for c in first])
    weights = softmax(2.0 / scores.std() * scores, alive(12))
    counts = np.bincount(several(weights, 12, 0.0), minlength=12)
    if children == "pruned":
        counts = np.minimum(counts, 1)
    pruned = [c.pruned_at == 0 for c in first]
    assert pruned == [count == 0 for count in counts.tolist()]
    following = sum(counts)
    assert following <= 12
    branches = [c for c in result.candidates if c.origin.startswith("step 0 branch")]
    if children == "pruned":
        assert not branches
        assert len(rounds) > 12  # what was saved pays for another search
        assert len(result.rounds) > 1
    else:
        assert branches
    spare = FULL + 2 * COSTS.verify
    assert result.budget - spare < result.spent <= result.budget


@pytest.mark.parametrize("name", ["das", "funnel", "bfs"])
def test_looks_that_cannot_branch_are_refused(models: Models, name: str) -> None:
    options = {"das": Das, "funnel": Funnel, "bfs": Bfs}[name]
    with pytest.raises(UserError, match=f"method {name}: steps: 3 is no step from 0 to 2"):
        models.search(name, options(steps=[3]))
