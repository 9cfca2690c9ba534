import numpy as np
import pytest

from ttsnap.schedule import Schedule
from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.montecarlo import Pool, Subsets, replay


def test_replay_by_hand() -> None:
    scores = np.array([[5, 0], [4, 9], [3, 1], [2, 8], [1, 7]], dtype=np.float32)
    outcome = replay(scores, np.array([9, 1, 2, 3, 10]), Schedule.parse("0:0.6,1:0.5"))
    # 5 x 0.6 = 3 best at step 0, of those 3 x 0.5 to the nearest = 2 best at step 1.
    assert [kept.tolist() for kept in outcome.survivors] == [[0, 1, 2], [1, 2]]
    assert outcome.winner == 2


def test_ties_go_to_the_lower_position() -> None:
    outcome = replay(np.zeros((4, 2)), np.zeros(4), Schedule.parse("0:0.5"))
    assert outcome.survivors[0].tolist() == [0, 1]
    assert outcome.winner == 0


@pytest.mark.parametrize("draws", [50, 1100])
def test_subsets_grow_and_are_random(draws: int) -> None:
    prompts, pool = 3, 20
    subsets = Subsets(prompts, pool, draws, seed=0)
    assert subsets.draws >= draws
    smaller, larger = (np.concatenate(list(subsets.members(size))) for size in (4, 9))
    assert smaller.shape == (subsets.draws, prompts, 4)
    for few, many in zip(smaller.reshape(-1, 4), larger.reshape(-1, 9), strict=True):
        assert len(set(few)) == 4
        assert set(few) < set(many)
    # Every image is as likely as any other, in every prompt.
    often = np.stack([np.bincount(smaller[:, p].ravel(), minlength=pool) for p in range(prompts)])
    expected = subsets.draws * 4 / pool
    assert np.all(np.abs(often - expected) < 5 * np.sqrt(expected))
    again = np.concatenate(list(Subsets(prompts, pool, draws, seed=0).members(4)))
    np.testing.assert_array_equal(again, smaller)
    assert not np.array_equal(
        np.concatenate(list(Subsets(prompts, pool, draws, 1).members(4))), smaller
    )
    assert sorted(next(subsets.members(pool))[0, 0]) == list(range(pool))


@pytest.mark.parametrize("levels", [3, 1000])
def test_all_draws_at_once_equal_one_at_a_time(levels: int) -> None:
    """With few levels most rewards tie, so that the order of the pool decides."""
    rng = np.random.default_rng(1)
    prompts, pool = 3, 17
    scores = rng.integers(levels, size=(prompts, pool, 6)).astype(np.float32)
    final = rng.normal(size=(prompts, pool)).astype(np.float32)
    schedule = Schedule.parse("0:0.5,2:0.4,4:1")
    subsets = Subsets(prompts, pool, 100, seed=5)
    steps = [check.step for check in schedule.checks]
    searched = Pool(scores, final, subsets)
    for size in (1, 4, 13, 17):
        found = np.array(
            [
                [
                    final[p, one[replay(scores[p, one], final[p, one], schedule).winner]]
                    for p, one in enumerate(draw)
                ]
                for draw in np.concatenate(list(subsets.members(size)))
            ]
        )
        estimate = searched.search(steps, schedule.counts(size))
        np.testing.assert_allclose(estimate.mean, found.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(estimate.variance, found.var(axis=0), rtol=1e-4, atol=1e-6)
        assert estimate.error == pytest.approx(
            np.sqrt(found.var(axis=0).sum() / len(found)) / prompts, rel=1e-4, abs=1e-6
        )


def test_keeping_everyone_is_best_of_n() -> None:
    rng = np.random.default_rng(2)
    final = rng.normal(size=(4, 30))
    searched = Pool(rng.normal(size=(4, 30, 5)), final, Subsets(4, 30, 4000, 0))
    for size in (2, 9, 30):
        kept = searched.search([0, 3], Schedule.parse("0:1,3:1").counts(size))
        unpruned = searched.search([], [size])
        np.testing.assert_array_equal(kept.mean, unpruned.mean)
        error = np.sqrt(kept.variance / kept.draws)
        np.testing.assert_array_less(
            np.abs(kept.mean - expected_best(final, size)), 5 * error + 1e-9
        )


def test_a_perfect_early_reward_finds_the_best_of_n() -> None:
    rng = np.random.default_rng(3)
    final = rng.normal(size=(4, 30))
    searched = Pool(np.repeat(final[:, :, None], 5, axis=2), final, Subsets(4, 30, 200, 0))
    for size in range(1, 31):
        pruned = searched.search([0, 2], Schedule.parse("0:0.3,2:0.2").counts(size))
        np.testing.assert_array_equal(pruned.mean, searched.search([], [size]).mean)


def test_what_is_reported_may_be_another_reward() -> None:
    rng = np.random.default_rng(4)
    final, other = rng.normal(size=(2, 3, 12))
    subsets = Subsets(3, 12, 64, 0)
    draws = np.concatenate(list(subsets.members(5)))
    prompts = np.arange(3)[:, None]
    winners = np.take_along_axis(draws, final[prompts, draws].argmax(axis=2)[..., None], axis=2)
    expected = other[prompts, winners][..., 0].mean(axis=0)
    found = Pool(np.zeros((3, 12, 1)), final, subsets, values=other).search([], [5])
    np.testing.assert_allclose(found.mean, expected)
