"""Trajectories that try noise after noise: rbf, verifier-threshold and dfs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searches import COSTS, FULL, LAST, STEPS, Models
from ttsnap.errors import UserError
from ttsnap.searching import SearchResult
from ttsnap.searching.methods.dfs import Dfs
from ttsnap.searching.methods.rbf import Rbf, Rollover
from ttsnap.searching.methods.trying import Threshold
from ttsnap.searching.methods.verifier_threshold import VerifierThreshold

WALK = FULL + 3 * COSTS.verify  # a trajectory that is looked at after each of its steps


def looked(result: SearchResult, step: int) -> list[int]:
    """Candidates that a step's look has seen, in order of the tries."""
    return [i for i, one in enumerate(result.candidates) if step in one.scores]


def levels(result: SearchResult) -> list[list[float]]:
    """Scores of what was tried at each step of the only trajectory, in order."""
    scores = [c.scores for c in result.candidates]
    return [[one[step] for one in scores if step in one] for step in range(STEPS)]


def test_what_passes_is_among_the_best_that_were_seen() -> None:
    options = Threshold(share=0.5)
    seen = np.array([[3.0, 1.0, 2.0, 5.0, np.nan]])
    # Of 1, 2, 3 and 4 candidates the best 1, 1, 2 and 2 pass; who cannot be scored never does.
    assert [options.passes(seen[:, :n]) for n in range(1, 6)] == [True, False, True, True, False]


def test_what_passes_a_given_threshold_reaches_it_by_every_reward() -> None:
    options = Threshold(threshold=2.0)
    assert options.passes(np.array([[2.0], [2.5]]))
    assert not options.passes(np.array([[9.0], [1.9]]))
    assert not options.passes(np.array([[9.0], [np.nan]]))


def test_a_threshold_that_all_pass_tries_nothing_twice(models: Models) -> None:
    result = models.search("verifier-threshold", VerifierThreshold(threshold=-1e9), budget=3 * WALK)
    assert len(result.candidates) == 3
    assert result.nfe == 3 * STEPS
    assert all(len(c.scores) == STEPS and c.pruned_at is None for c in result.candidates)


def test_a_threshold_that_none_passes_leaves_just_enough_for_the_way(models: Models) -> None:
    """All is spent on the first step; then the best goes on, with one try at each of the others."""
    spare = 10
    budget = WALK + spare * (1 + COSTS.verify)
    result = models.search("verifier-threshold", VerifierThreshold(threshold=1e9), budget=budget)
    first, *others = levels(result)
    assert (len(first), [len(tried) for tried in others]) == (1 + spare, [1, 1, 1])
    assert result.spent == pytest.approx(budget)
    assert result.winner == int(np.argmax(first))
    assert [c.pruned_at for c in result.candidates].count(0) == spare


def test_a_step_is_left_as_soon_as_a_score_passes(models: Models) -> None:
    """arXiv 2512.08985: on to the next step only when the score is above the threshold."""
    every = models.search("verifier-threshold", VerifierThreshold(threshold=1e9), budget=40 * FULL)
    threshold = float(np.quantile(levels(every)[0], 0.7))
    result = models.search("verifier-threshold", VerifierThreshold(threshold=threshold))
    tried = looked(result, 0)
    first = [result.candidates[i] for i in tried]
    begun = [i for i, one in zip(tried, first, strict=True) if one.parent is None]
    kept = [i for i in begun if result.candidates[i].pruned_at != 0]
    # Seeds are tried in their order; those before the first that passes are below it.
    assert kept[0] == min(i for i in begun if result.candidates[i].scores[0] >= threshold)
    assert all(result.candidates[i].scores[0] < threshold for i in begun if i < kept[0])
    assert kept[0] > 0


def test_rollover_as_the_authors_do_it(models: Models) -> None:
    """arXiv 2503.19385: what beats all ends a step, and the rest of its quota rolls over."""
    options = Rbf(initial=0.0)
    run = models.executor("rbf", options, budget=100.0)
    enough = Rollover(run, options, [0, 1, 2])
    assert enough(0, np.array([[1.0]]))  # one initial noise
    enough.quota = 3
    assert not enough(1, np.array([[0.5]]))
    assert enough(1, np.array([[0.5, 1.5]]))  # better after 2 of 3: one is left over
    assert enough.left_over == 1
    tries = [[1.4], [1.4, 1.2], [1.4, 1.2, 1.5], [1.4, 1.2, 1.5, 1.3]]
    # As good as the bar is not better. 3 + 1 tries; then the best goes on, and the bar stays.
    assert [enough(2, np.array([values])) for values in tries] == [False, False, False, True]
    assert (enough.left_over, enough.bar.tolist()) == (0, [[1.5]])
    assert not enough(3, np.array([[9.0]]))  # the last step takes all that is left


def test_the_quota_is_an_equal_share_of_what_the_initial_noises_leave(models: Models) -> None:
    budget = 60.0
    options = Rbf(initial=0.1)
    result = models.search("rbf", options, budget=budget)
    price = 1 + COSTS.verify
    tried = levels(result)
    assert len(tried[0]) == int(0.1 * budget / price) == 4
    quota = int((budget - 4 * price) / (3 * price))
    bar, left_over = max(tried[0]), 0
    for scores in tried[1:LAST]:
        allowed = quota + left_over
        better = next((n for n, score in enumerate(scores, 1) if score > bar), None)
        assert len(scores) == (better or allowed)
        bar = max(bar, *scores)
        left_over = allowed - len(scores)
    assert result.score == max(tried[LAST])
    assert budget - price < result.spent <= budget


def test_depth_first_goes_back_no_more_often_than_it_may(models: Models) -> None:
    options = Dfs(threshold=1e9, backtracks=5, steps=[0, 2])
    result = models.search("dfs", options, budget=FULL + 2 * COSTS.verify + 5 * (1 + COSTS.verify))
    # The first level never passes, and takes all; the best of it goes down.
    tried = levels(result)
    assert [len(scores) for scores in tried] == [6, 0, 1, 1]
    assert result.winner == int(np.argmax(tried[0]))
    assert result.spent == pytest.approx(result.budget)


def test_depth_first_goes_back_to_the_level_before(models: Models) -> None:
    """What is tried at a level branches off the state of the one before, which is not run anew."""
    options = Dfs(share=0.3, backtracks=4, steps=[0, 2])
    result = models.search("dfs", options, budget=30 * FULL)
    again = [c for i, c in enumerate(result.candidates) if 2 in c.scores and c.parent is not None]
    assert again
    for one in again:
        assert one.parent is not None
        parent = result.candidates[one.parent]
        assert one.noises[:1] == parent.noises[:1]
        assert one.noises[1] != parent.noises[1]
        assert 0 not in one.scores
    first, second, last = (len(looked(result, step)) for step in (0, 2, LAST))
    assert result.nfe == first + 2 * second + last


@pytest.mark.parametrize("name", ["rbf", "verifier-threshold", "dfs"])
def test_looks_are_where_noise_tells_branches_apart(models: Models, name: str) -> None:
    options = {"rbf": Rbf, "verifier-threshold": VerifierThreshold, "dfs": Dfs}[name]
    with pytest.raises(UserError, match=f"method {name}: steps: 3 is no step from 0 to 2"):
        models.search(name, options(steps=[3]))
