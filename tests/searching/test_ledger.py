"""The one order of candidates, and the books."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.searches import Function, Models
from ttsnap.schedule import combine, keep_best
from ttsnap.searching.ledger import Ledger, UnscoredError, best, merit, ordered, standardised

# Grades, as judges give them, so that ties are common; some could not be had.
GRADES = st.integers(1, 3).flatmap(
    lambda rewards: st.integers(1, 8).flatmap(
        lambda n: arrays(
            np.float32,
            (rewards, n),
            elements=st.one_of(st.integers(0, 3).map(float), st.just(float("nan"))),
        )
    )
)


@given(GRADES)
def test_a_candidate_that_is_nowhere_worse_is_better(values: np.ndarray) -> None:
    merits = merit(values)
    failed = np.isnan(values).any(axis=0)
    for i, one in enumerate(values.T):
        for j, other in enumerate(values.T):
            if failed[i]:
                assert merits[i] == -np.inf
            elif failed[j]:
                assert merits[i] > merits[j]
            elif (one == other).all():
                assert merits[i] == merits[j]
            elif (one >= other).all():
                assert merits[i] > merits[j]


@given(GRADES)
def test_there_is_one_order(values: np.ndarray) -> None:
    """Best first, equals as they come, failures left out; keeping some keeps the first of it."""
    order = ordered(values)
    failed = np.isnan(values).any(axis=0)
    assert sorted(order) == np.flatnonzero(~failed).tolist()
    merits = merit(values)
    assert order == sorted(order, key=lambda i: (-merits[i], i))
    for count in range(1, len(order) + 1):
        assert best(values, count).tolist() == sorted(order[:count])


@given(GRADES.filter(lambda values: len(values) == 1))
def test_of_one_reward_it_is_that_of_its_scores(values: np.ndarray) -> None:
    for count in range(1, values.shape[1] + 1):
        assert best(values, count).tolist() == keep_best(values[0], count).tolist()


@given(GRADES.filter(lambda values: not np.isnan(values).any()))
def test_simulation_combines_rewards_in_the_same_order(values: np.ndarray) -> None:
    np.testing.assert_array_equal(combine(values), merit(values))
    stacked = np.stack([values, values[:, ::-1]], axis=1)  # (R, 2, n)
    np.testing.assert_array_equal(combine(stacked)[0], merit(values))


@given(GRADES)
def test_the_winner_is_among_the_images_that_were_kept(values: np.ndarray) -> None:
    """However finals arrive, what wins a round or the search still has its image."""
    names = [f"r{i}" for i in range(len(values))]
    ledgers = Ledger(names), Ledger(names, keep_finals=True)
    for row in range(values.shape[1]):
        for ledger in ledgers:
            index = ledger.begin(row)
            image = np.full((1, 2, 2, 3), row, np.uint8)
            ledger.record(3, [index], [()], values[:, [row]], [image[0]], image)
            if row % 3 == 2:
                ledger.end_round()
    for ledger in ledgers:
        ledger.end_round()
        order = ordered(values)
        assert ledger.ranked() == order
        assert [one.best for one in ledger.rounds] == [
            start + ordered(values[:, start : start + 3])[0]
            for start in range(0, values.shape[1], 3)
            if ordered(values[:, start : start + 3])
        ]
        for one in ledger.rounds:
            assert one.image[0, 0, 0] == one.best
        if order:
            assert ledger._images[order[0]][0, 0, 0] == order[0]


def test_the_dominated_one_of_a_tie_does_not_win(models: Models) -> None:
    """Rewards (7, 0) and (7, 1), in either order: the second is better."""
    for grades in ([0.0, 1.0], [1.0, 0.0]):
        left = iter(grades)
        rewards = [
            Function(lambda images: np.full(len(images), 7.0), "tied"),
            Function(lambda images, left=left: [next(left) for _ in images], "decides"),
        ]
        result = models.search("best-of-n", budget=2 * 4.375, rewards=rewards)
        assert result.winner == int(np.argmax(grades))
        assert result.candidates[result.winner].rewards == {"tied": 7.0, "decides": 1.0}


@pytest.mark.parametrize("name", ["random", "zero-order", "ttsp", "beam", "smc", "mcts"])
def test_ties_are_no_trouble_anywhere(models: Models, name: str) -> None:
    grade = Function(lambda images: images.mean(axis=(1, 2, 3)) // 20, "grade")
    constant = Function(lambda images: np.ones(len(images)), "constant")
    result = models.search(name, rewards=[constant, grade])
    finals = [c.rewards["grade"] for c in result.candidates if c.rewards]
    assert result.candidates[result.winner].rewards["grade"] == max(finals)


def test_standardised_scores() -> None:
    values = np.array([[1.0, 3.0, np.nan], [10.0, 30.0, 5.0]])
    np.testing.assert_allclose(standardised(values), [-1, 1, -np.inf])
    assert standardised(np.full((1, 2), np.nan)).tolist() == [-np.inf, -np.inf]


def test_nothing_scored_is_an_error_of_its_own(models: Models) -> None:
    rewards = [Function(lambda images: np.full(len(images), np.nan), "judge")]
    with pytest.raises(UnscoredError, match="none of 7 final images could be scored by judge"):
        models.search("best-of-n", rewards=rewards)
