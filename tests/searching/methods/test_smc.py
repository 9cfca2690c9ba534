"""Sequential Monte Carlo: Feynman-Kac steering."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.searches import COSTS, FULL, Models, images_close
from ttsnap.errors import UserError
from ttsnap.searching import Candidate, SearchResult
from ttsnap.searching.executor import Cohort, Executor, Look
from ttsnap.searching.methods.particles import (
    evenly,
    inverse_temperatures,
    softmax,
    systematic,
)
from ttsnap.searching.methods.smc import Potential, Smc, log_potential, smc

KINDS: list[Potential] = ["difference", "max", "sum"]
LOOKS = arrays(np.float64, (5, 3), elements=st.floats(-20, 20))


@given(LOOKS)
def test_potentials_are_those_of_the_paper(rewards: np.ndarray) -> None:
    """arXiv 2501.06848, section 3: of x_t, after λ r(x_T), …, λ r(x_t) were seen."""
    for k in range(1, len(rewards)):
        seen = rewards[:k]
        before = seen[-2] if k > 1 else np.zeros(3)
        np.testing.assert_allclose(log_potential("difference", seen), seen[-1] - before)
        np.testing.assert_allclose(log_potential("max", seen), np.max(seen, axis=0))
        np.testing.assert_allclose(log_potential("sum", seen), np.sum(seen, axis=0))


@given(LOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_potentials_of_a_trajectory_make_its_reward(
    kind: Potential, rewards: np.ndarray
) -> None:
    """The product of G_T … G_0 is exp(λ r(x_0)), which is what makes the sampling exact."""
    last = len(rewards)
    logs = [log_potential(kind, rewards[:k], final=k == last) for k in range(1, last + 1)]
    np.testing.assert_allclose(np.sum(logs, axis=0), rewards[-1], atol=1e-9)


def test_lambda_is_per_unit_of_reward_and_does_not_depend_on_its_scale() -> None:
    scores = np.array([[1.0, 2.0, 4.0, np.nan]])
    (found,) = inverse_temperatures(scores, Smc(strength=2.0))
    assert found == pytest.approx(2.0 / np.std([1.0, 2.0, 4.0]))
    assert inverse_temperatures(10 * scores, Smc(strength=2.0)) == pytest.approx([found / 10])
    assert inverse_temperatures(scores, Smc(per_unit=3.0)).tolist() == [3.0]
    assert inverse_temperatures(np.ones((1, 4)), Smc(strength=2.0)).tolist() == [2.0]


def test_frozen_rewards_are_resampled_once() -> None:
    """Difference potentials telescope: what does not gain any more is not weighed any more.

    Standardised among the survivors of each look, 6.0 ancestors fell to 1.34.
    """
    survivors = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rewards = rng.standard_normal(16)
        scale = inverse_temperatures(rewards[None], Smc(strength=2.0))[0]
        ancestors, history = np.arange(16), np.zeros((0, 16))
        counts = []
        for _ in range(4):
            history = np.concatenate([history, scale * rewards[ancestors][None]])
            weights = softmax(log_potential("difference", history), np.full(16, True))
            parents = systematic(weights, 16, rng.random())
            ancestors, history = ancestors[parents], history[:, parents]
            counts.append(len(set(ancestors)))
        survivors.append(counts)
    first, *later = np.mean(survivors, axis=0)
    assert first == pytest.approx(6.0, abs=0.5)
    assert later == [first] * 3


def test_a_search_with_frozen_rewards_keeps_its_ancestors(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same live: every look finds what the first one found of the ancestor."""
    options = Smc(strength=2.0, steps=[0, 1, 2])
    run = models.executor("smc", options, budget=16 * (FULL + 3 * COSTS.verify))
    rewards = np.random.default_rng(0).standard_normal(16)
    alive: list[set[int]] = []

    def ancestor(index: int) -> int:
        parent = run.ledger.candidates[index].parent
        return index if parent is None else ancestor(parent)

    def look(cohort: Cohort) -> Look:
        ancestors = [ancestor(index) for index in cohort.who]
        alive.append(set(ancestors))
        found = Executor.look(run, cohort)
        return replace(found, values=rewards[ancestors][None].astype(np.float32))

    monkeypatch.setattr(run, "look", look)
    smc(run, options)
    assert [len(one) for one in alive] == [16, len(alive[1]), len(alive[1]), len(alive[1])]
    assert 4 <= len(alive[1]) <= 8
    weights = [run.ledger.candidates[i].weight for i in run.ledger.finished]
    assert weights == pytest.approx([1 / 16] * 16)  # nothing was gained since


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_finals_are_recorded(models: Models, kind: Potential) -> None:
    options = Smc(strength=2.0, potential=kind, steps=[1, 2])
    result = models.search("smc", options, budget=8 * (FULL + 2 * COSTS.verify))
    finals = [c for c in result.candidates if c.rewards]
    weights = np.array([c.weight for c in finals])
    assert weights.sum() == pytest.approx(1)
    assert all(c.weight is None for c in result.candidates if not c.rewards)
    first = np.array([c.scores[1] for c in result.candidates if 1 in c.scores])
    logs = [log_final(kind, one, result, 2.0 / first.std()) for one in finals]
    np.testing.assert_allclose(weights, softmax(np.array(logs), np.full(len(logs), True)), 1e-4)


def log_final(kind: Potential, one: Candidate, result: SearchResult, scale: float) -> float:
    """log G_0 of a final, of the looks that it and its ancestors lived to see."""
    path = dict(one.scores)
    while one.parent is not None:
        one = result.candidates[one.parent]
        path = one.scores | path
    history = scale * np.array([[path[step]] for step in sorted(path)])
    return float(log_potential(kind, history, final=True)[0])


def test_without_strength_particles_are_best_of_n(models: Models) -> None:
    looks = 2 * COSTS.verify  # at steps 1 and 2
    steered = models.search("smc", Smc(strength=0.0), budget=5 * (FULL + looks))
    plain = models.search("rejection", budget=5 * FULL)
    assert steered.spent == pytest.approx(steered.budget)
    assert [c.seed for c in steered.candidates] == [c.seed for c in plain.candidates]
    assert all(c.pruned_at is None for c in steered.candidates)
    assert steered.winner == plain.winner
    assert images_close(steered.image, plain.image)


@pytest.mark.parametrize("kind", KINDS)
def test_particles_follow_their_weights(models: Models, kind: Potential) -> None:
    result = models.search("smc", Smc(strength=50.0, steps=[1], potential=kind))
    looked = {i: c.scores[1] for i, c in enumerate(result.candidates) if 1 in c.scores}
    best = max(looked, key=lambda i: looked[i])
    branches = [c for c in result.candidates if c.parent is not None]
    assert branches
    assert all(c.parent == best for c in branches)
    assert len({c.noises for c in branches}) == len(branches)
    assert all(c.noises[:2] == result.candidates[best].noises[:2] for c in branches)
    assert result.candidates[best].pruned_at is None


def test_systematic_resampling() -> None:
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    drawn = [systematic(weights, 10, offset).tolist() for offset in np.linspace(0.05, 0.95, 7)]
    assert all(d == [0] * 5 + [2] * 3 + [3] * 2 for d in drawn)
    assert systematic(np.full(7, 1 / 7), 7, 0.3).tolist() == list(range(7))
    counts = [systematic(np.array([0.5, 0.5]), 1, offset)[0] for offset in (0.2, 0.8)]
    assert counts == [0, 1]


def test_looks_are_where_noise_tells_branches_apart(models: Models) -> None:
    assert evenly(range(11)) == [2, 4, 7, 9]
    assert [evenly(range(n)) for n in (1, 2, 3)] == [[0], [0, 1], [1, 2]]
    churned = evenly([9, 11, 13, 15, 17, 19])
    assert churned == [11, 13, 17, 19]
    assert all(a < b for a, b in pairwise(churned))
    with pytest.raises(UserError, match="method smc: steps: 3 is no step from 0 to 2"):
        models.search("smc", Smc(steps=[3]))
