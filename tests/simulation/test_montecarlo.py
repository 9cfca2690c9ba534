import numpy as np
import pytest

from ttsnap.schedule import Schedule
from ttsnap.simulation import expected_best, expected_reward, replay
from ttsnap.simulation.montecarlo import _permutations


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


@pytest.mark.parametrize("levels", [3, 1000])
def test_all_draws_at_once_equal_one_at_a_time(levels: int) -> None:
    """With few levels most rewards tie, so that the order of the draw decides."""
    rng = np.random.default_rng(1)
    prompts, pool, draws, seed = 3, 17, 25, 5
    scores = rng.integers(levels, size=(prompts, pool, 6)).astype(np.float32)
    final = rng.normal(size=(prompts, pool)).astype(np.float32)
    schedule = Schedule.parse("0:0.5,2:0.4,4:1")
    sizes = [1, 4, 13, 17]
    subsets = np.concatenate(list(_permutations(prompts, pool, pool, draws, seed)))
    expected = np.zeros((prompts, len(sizes)))
    for column, size in enumerate(sizes):
        for p in range(prompts):
            for draw in subsets[:, p, :size] - p * pool:
                winner = replay(scores[p, draw], final[p, draw], schedule).winner
                expected[p, column] += final[p, draw[winner]] / draws
    actual = expected_reward(scores, final, schedule, sizes, draws, seed)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_subsets_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(_permutations(3, 8, 5, 11, 0)))
    monkeypatch.setattr("ttsnap.simulation.montecarlo.CHUNK", 3 * 8 * 4)
    parts = list(_permutations(3, 8, 5, 11, 0))
    assert [len(part) for part in parts] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    # Each row is a subset of its own prompt's pool, without repeats.
    assert all(len(set(row)) == 5 for draw in whole for row in draw)
    assert np.array_equal(whole // 8, np.broadcast_to(np.arange(3)[None, :, None], whole.shape))


def test_keeping_everyone_is_best_of_n() -> None:
    rng = np.random.default_rng(2)
    final = rng.normal(size=(4, 30))
    scores = rng.normal(size=(4, 30, 5))
    sizes, draws = [2, 9, 30], 4000
    pruned = expected_reward(scores, final, Schedule.parse("0:1,3:1"), sizes, draws, 0)
    unpruned = expected_reward(scores, final, Schedule(), sizes, draws, 0)
    np.testing.assert_array_equal(pruned, unpruned)
    exact = np.stack([expected_best(final, n) for n in sizes], axis=1)
    np.testing.assert_allclose(pruned, exact, atol=4 * final.std() / np.sqrt(draws))


def test_a_perfect_early_reward_finds_the_best_of_n() -> None:
    rng = np.random.default_rng(3)
    final = rng.normal(size=(4, 30))
    perfect = np.repeat(final[:, :, None], 5, axis=2)
    sizes = list(range(1, 31))
    pruned = expected_reward(perfect, final, Schedule.parse("0:0.3,2:0.2"), sizes, 200, 0)
    np.testing.assert_array_equal(
        pruned, expected_reward(perfect, final, Schedule(), sizes, 200, 0)
    )
