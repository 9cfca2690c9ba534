"""EvoSearch: selection and mutation of noises, then of states."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searches import COSTS, FULL, Models
from ttsnap.searching.methods.evosearch import EvoSearch, Member, tournaments
from ttsnap.searching.noise import NoiseSource

OPTIONS = EvoSearch(elites=1, steps=[0, 2])


def test_generations_share_the_budget_and_follow_one_another(models: Models) -> None:
    """arXiv 2505.17618: noises, their mutations, then states of each step, all finished."""
    result = models.search("evosearch", OPTIONS, budget=20 * FULL)
    kinds = [c.origin.split(" of ")[0].split(" branch")[0] for c in result.candidates]
    names = ["mutation", "step 0", "step 2"]
    order = [names.index(kind) if kind in names else -1 for kind in kinds]
    assert order == sorted(order)
    assert set(order) == {-1, 0, 1, 2}
    assert all(c.rewards for c in result.candidates)
    counts = [order.count(generation) for generation in range(-1, 3)]
    prices = [FULL, FULL, 3 + COSTS.verify, 1 + COSTS.verify]
    assert counts[:2] == [
        5,
        5,
    ]  # a fourth of the budget, then a third of what is left, in whole ones
    assert result.spent == pytest.approx(np.dot(counts, prices))
    assert [r.num_noises for r in result.rounds] == counts


def test_children_mix_their_parents_noise(models: Models) -> None:
    result = models.search("evosearch", OPTIONS, budget=20 * FULL)
    for child in result.candidates:
        if child.parent is None:
            continue
        parent = result.candidates[child.parent]
        if child.origin.startswith("mutation"):
            assert child.noises[0] == (*parent.noises[0], child.seed)
            assert child.noises[1:] == parent.noises[1:]
        else:
            step = int(child.origin.split()[1])
            assert child.noises[: step + 1] == parent.noises[: step + 1]
            assert child.noises[step + 1] == (*parent.noises[step + 1], child.seed)
            assert not {*child.noises[step + 2 :]} & {*parent.noises[step + 2 : -1]}


def test_a_mutation_keeps_the_variance(models: Models) -> None:
    draw = NoiseSource(models.noisy, EvoSearch(mutation=0.6).move())
    first, other, mutated = (draw([recipe])[0] for recipe in ((1,), (2,), (1, 2)))
    np.testing.assert_allclose(mutated, 0.8 * first + 0.6 * other, atol=1e-6)
    many = draw([(1, seed) for seed in range(100, 140)])
    assert float(many.var(dim=0).mean()) == pytest.approx(0.36, rel=0.2)


def test_parents_win_tournaments(models: Models) -> None:
    run = models.executor("evosearch", OPTIONS)
    cohort, values = run.reach(run.start(10), run.last)
    members = [Member(i, cohort.noises[i][0], {}) for i in range(10)]
    births = tournaments(run, members, 1, 200)
    order = np.argsort(-values[0])
    won = [birth.parent.index for birth in births]
    # Nine of ten enter: the best wins unless it is left out, and then the second does.
    assert set(won) == {int(order[0]), int(order[1])}
    assert won.count(int(order[0])) / 200 == pytest.approx(0.9, abs=0.07)
    numbers = [birth.number for birth in births if birth.parent.index == order[0]]
    assert numbers == list(range(1, len(numbers) + 1))
