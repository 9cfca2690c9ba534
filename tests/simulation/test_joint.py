"""Several rewards at once."""

import numpy as np
import pytest

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule, combine
from ttsnap.simulation.experiment import TTSNAP, TTSP, Experiment
from ttsnap.simulation.joint import search_jointly
from ttsnap.simulation.montecarlo import Pool, Subsets
from ttsnap.simulation.source import pair
from ttsnap.simulation.strategies import simulate_part

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(2, 3, 12, 4)).astype(np.float32)
SUBSETS = Subsets(3, 12, 128, 0)


def test_ranks_add_up() -> None:
    # Ranks from the best: 0 1 2 and 2 0 1.
    assert combine(np.array([[9.0, 5.0, 1.0], [0.1, 0.3, 0.2]])).tolist() == [-2, -1, -3]


def test_z_scores_add_up_by_weight() -> None:
    values = np.array([[1.0, 3.0], [10.0, -10.0]])
    assert combine(values, [1, 1]).tolist() == [0, 0]
    assert combine(values, [3, 1]).tolist() == [-2, 2]
    assert combine(np.array([[2.0, 2.0], [0.0, 1.0]]), [1, 1]).tolist() == [-1, 1]


def test_one_reward_is_as_if_alone() -> None:
    steps, counts = [0, 2], [9, 4, 2]
    alone = Pool(SCORES[0], SCORES[0][:, :, -1], SUBSETS).search(steps, counts)
    for weights in (None, [1.0]):
        (joint,) = search_jointly(
            [SCORES[0]], [SCORES[0][:, :, -1]], SUBSETS, steps, counts, weights
        )
        np.testing.assert_allclose(joint.mean, alone.mean, rtol=1e-5)
        np.testing.assert_allclose(joint.variance, alone.variance, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 0.5]])
def test_many_draws_at_once_equal_one_at_a_time(weights: list[float] | None) -> None:
    finals = [values[:, :, -1] for values in SCORES]
    found = []
    for draw in np.concatenate(list(SUBSETS.members(7))):
        for prompt, drawn in enumerate(draw):
            alive = drawn
            for step, count in ((0, 4), (1, 2)):
                summed = combine(SCORES[:, prompt, alive, step], weights)
                alive = np.sort(alive[np.argsort(-summed, kind="stable")[:count]])
            winner = alive[np.argmax(combine(SCORES[:, prompt, alive, -1], weights))]
            found.append([final[prompt, winner] for final in finals])
    expected = np.reshape(found, (-1, 3, 2)).mean(axis=0)
    estimates = search_jointly(list(SCORES), finals, SUBSETS, [0, 1], [7, 4, 2], weights)
    for reward, estimate in enumerate(estimates):
        np.testing.assert_allclose(estimate.mean, expected[:, reward], rtol=1e-5)


def test_a_joint_search_is_reported_per_reward() -> None:
    costs = CostModel(denoise=1.0, decode=0.0, reward=0.0, steps=4)
    rewards = {"a": pair(SCORES[0], SCORES[0]), "b": pair(SCORES[1], SCORES[1])}
    schedules = {
        (name, budget): (name, Schedule.parse("1:0.5"))
        for name in (TTSP, TTSNAP)
        for budget in (8, 24)
    }
    experiment = Experiment(rewards, costs, joint=True)
    found = simulate_part(experiment, schedules, [8, 24], draws=64, seed=0)
    assert set(found.table.reward) == {"a", "b"}
    assert set(found.table.prunes_by) == set(found.omega.prunes_by) == {"joint"}
    assert len(found.omega) == 6
    with pytest.raises(UserError, match="1 weights for 2 rewards"):
        Experiment(rewards, costs, joint=True, weights=[1.0])
