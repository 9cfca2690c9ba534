import numpy as np
import pytest

from ttsnap.simulation.exact import expected_best


def test_agrees_with_random_subsets() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(3, 40))
    draws = 20_000
    for n in (1, 2, 7, 40):
        subsets = rng.permuted(np.tile(np.arange(40), (draws, 1)), axis=1)[:, :n]
        best = rewards[:, subsets].max(axis=2)
        error = best.std(axis=1) / np.sqrt(draws)
        assert np.all(np.abs(best.mean(axis=1) - expected_best(rewards, n)) <= 4 * error + 1e-9)


def test_ends_are_the_mean_and_the_maximum() -> None:
    rewards = np.array([[3.0, 1.0, 2.0, 6.0]])
    assert expected_best(rewards, 1) == pytest.approx(3.0)
    assert expected_best(rewards, 4) == pytest.approx(6.0)


def test_two_of_three_by_hand() -> None:
    # Subsets {0,1} {0,5} {1,5} have maxima 1, 5, 5.
    assert expected_best(np.array([[0.0, 1.0, 5.0]]), 2) == pytest.approx(11 / 3)


def test_large_pools_do_not_overflow() -> None:
    rewards = np.arange(5000.0)[None]
    # E[max of n of 1..I] = n (I + 1) / (n + 1), here counted from 0.
    assert expected_best(rewards, 1000) == pytest.approx(1000 * 5001 / 1001 - 1)
