"""What holds for every method."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from tests.sampling import tiny_previewer
from tests.searches import (
    COSTS,
    FULL,
    LAST,
    OPTIONS,
    PROMPT,
    STEPS,
    Models,
    again,
    failing,
    images_close,
    rows_of,
    runs,
)
from tests.tiny_families import tiny
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.schedule import CostModel
from ttsnap.searching import METHODS
from ttsnap.searching.methods.beam import Beam
from ttsnap.searching.output import events

CHURN = {"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}


def test_every_method_is_tried() -> None:
    assert set(OPTIONS) == set(METHODS)


@pytest.fixture(scope="module")
def churned() -> Sampler:
    """EDM with the published churn, which has an effect at 4 of 11 evaluations."""
    scheduler = Scheduler(name="EDMHeunScheduler", options=CHURN)
    sampling = Sampling(steps=11, guidance_scale=1.0, scheduler=scheduler)
    return from_pipeline(tiny("edm"), sampling)


@pytest.fixture(scope="module")
def ancestral(models: Models) -> Sampler:
    scheduler = Scheduler(name="EulerAncestralDiscreteScheduler")
    sampling = Sampling(steps=STEPS, guidance_scale=1.0, scheduler=scheduler)
    return from_pipeline(models.plain.pipe, sampling)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("own", "ddim", "ancestral", "churned")
        for name, method in METHODS.items()
        if kind != "own" or not method.needs_noise  # whose own is DDIM
    ],
)
def test_no_two_rows_are_the_same(
    models: Models,
    ancestral: Sampler,
    churned: Sampler,
    kind: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the sampler, and whether or not the method needs its noise."""
    sampler = {
        "own": models.sampler(name),
        "ddim": models.noisy,
        "ancestral": ancestral,
        "churned": churned,
    }[kind]
    costs = replace(COSTS, steps=sampler.steps)
    rewards = [BrightnessReward()] if kind == "churned" else models.rewards[:1]
    prompt = Prompt("p0", "heron", "", 0) if kind == "churned" else PROMPT
    rows = rows_of(sampler, monkeypatch)
    result = models.search(
        name,
        budget=runs(name, 12.3) * costs.cost(1),
        sampler=sampler,
        rewards=rewards,
        costs=costs,
        prompt=prompt,
        batch_size=5,
    )
    assert len(rows) == result.nfe > 0
    assert len(set(rows)) == len(rows)
    assert result.planned == pytest.approx(result.spent)
    winner = result.candidates[result.winner]
    monkeypatch.undo()
    assert images_close(again(sampler, winner, OPTIONS[name], prompt), result.image)
    assert kind == "own" or all(
        len(c.noises) == sampler.steps + 1 for c in result.candidates if c.rewards
    )


def test_neighbours_keep_the_noises_of_the_steps(models: Models) -> None:
    result = models.search("zero-order", sampler=models.noisy, budget=20 * FULL)
    for candidate in result.candidates:
        if candidate.parent is not None:
            assert candidate.noises[1:] == result.candidates[candidate.parent].noises[1:]
    fresh = [c for c in result.candidates if c.parent is None]
    assert len({c.noises[1:] for c in fresh}) == len(fresh) > 1


def test_a_method_that_needs_no_noise_takes_what_the_sampler_adds(models: Models) -> None:
    best = models.search("best-of-n", sampler=models.noisy)
    assert [c.noises for c in best.candidates] == [
        c.noises for c in models.search("rejection").candidates
    ]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_twice(models: Models, name: str) -> None:
    first, second = (models.search(name) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    traces = [[event | {"seconds": 0} for event in events(one)] for one in (first, second)]
    assert traces[0] == traces[1]


@pytest.mark.parametrize("usual", [1.0, 2.6, 7.9, 20.3])
@pytest.mark.parametrize("name", METHODS)
def test_spends_the_budget_and_never_more(models: Models, name: str, usual: float) -> None:
    # A pruned run of one candidate pays two looks besides.
    budget = runs(name, usual) * FULL + 4 * COSTS.verify
    result = models.search(name, budget=budget)
    smallest = FULL + 4 * COSTS.verify
    assert budget - smallest < result.spent <= budget * (1 + 1e-9)
    assert result.spent == pytest.approx(
        result.nfe * COSTS.denoise + result.decodes * COSTS.decode + result.scored * COSTS.reward
    )
    assert result.planned == pytest.approx(result.spent)
    assert result.unit == "TFLOPs"
    assert not result.interrupted


@pytest.mark.parametrize("name", METHODS)
def test_the_winner_can_be_made_again(models: Models, name: str) -> None:
    result = models.search(name, budget=runs(name, 20.3) * FULL)
    winner = result.candidates[result.winner]
    image = models.again(name, winner)
    assert images_close(image, result.image)
    finals = [c.rewards["clip0"] for c in result.candidates if c.rewards]
    assert result.score == max(finals) == winner.scores[LAST]
    assert result.score == pytest.approx(
        models.rewards[0].score(result.image[None], [PROMPT.text])[0], abs=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_best_of_all_rounds_is_kept(models: Models, name: str) -> None:
    result = models.search(name, budget=runs(name, 20.3) * FULL, keep_finals=True)
    assert [r.search_round for r in result.rounds] == list(range(1, len(result.rounds) + 1))
    assert sum(r.num_noises for r in result.rounds) == len(result.finals)
    assert max(r.best_score for r in result.rounds) == result.score
    for entry in result.rounds:
        best = result.candidates[entry.best]
        assert (entry.best_noise_seed, entry.choice_of_metric) == (best.seed, "clip0")
        np.testing.assert_array_equal(entry.image, result.finals[entry.best])
    for index, candidate in enumerate(result.candidates):
        assert bool(candidate.rewards) == (index in result.finals)
        assert bool(candidate.rewards) == (candidate.pruned_at is None)
    np.testing.assert_array_equal(result.image, result.finals[result.winner])


@pytest.mark.parametrize("name", METHODS)
def test_small_batches_change_nothing(models: Models, name: str) -> None:
    whole, parts = models.search(name), models.search(name, batch_size=3)
    assert images_close(whole.image, parts.image)
    noises = [sorted(c.noises for c in result.candidates) for result in (whole, parts)]
    assert noises[0] == noises[1]
    assert whole.spent == pytest.approx(parts.spent)


@pytest.mark.parametrize("name", METHODS)
def test_several_rewards_win_by_their_ranks(models: Models, name: str) -> None:
    result = models.search(name, rewards=models.rewards, keep_finals=True)
    finals = [(i, list(c.rewards.values())) for i, c in enumerate(result.candidates) if c.rewards]
    values = np.array([scores for _, scores in finals])
    assert values.shape[1] == 3
    ranks = (values[:, None] < values[None]).sum(axis=1).sum(axis=1)  # how many are better, summed
    assert result.winner == finals[int(ranks.argmin())][0]
    assert result.rewards == ("clip0", "clip1", "clip2")
    assert models.search(name, rewards=models.rewards).winner == result.winner


@pytest.mark.parametrize("name", METHODS)
def test_failed_scores_never_win(models: Models, name: str) -> None:
    scored = models.search(name, rewards=(failing(1e9),), keep_finals=True)
    above = sorted(image.mean() for image in scored.finals.values())[-2]
    result = models.search(name, rewards=(failing(above),))
    assert result.image.mean() <= above
    assert result.score == pytest.approx(result.image.mean(), rel=1e-5)
    with pytest.raises(UserError, match="final images could be scored by failing"):
        models.search(name, rewards=(failing(-1.0),))


@pytest.mark.parametrize("allowed", [0, 1, 6])
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_it_gives_the_best_so_far(models: Models, name: str, allowed: int) -> None:
    asked = count()
    result = models.search(name, cancelled=lambda: next(asked) >= allowed, batch_size=4)
    assert result.interrupted
    finals = [c.rewards["clip0"] for c in result.candidates if c.rewards]
    assert result.score == max(finals)
    assert result.spent < 7.9 * FULL
    winner = result.candidates[result.winner]
    assert images_close(models.again(name, winner), result.image)


@pytest.mark.parametrize(
    "name",
    [
        *("ttsnap", "beam", "noise-zero-order", "eps-greedy", "smc", "das", "funnel", "bfs"),
        *("svdd", "code", "rbf", "verifier-threshold", "dfs"),
    ],
)
def test_verifiers_look_at_their_steps(models: Models, name: str) -> None:
    plain, verified = (
        models.search(name, verifiers=verifiers)
        for verifiers in ({}, {1: (models.rewards[1],), 2: (models.rewards[2],)})
    )
    pairs = list(zip(plain.candidates, verified.candidates, strict=False))
    assert any(a.scores.get(step, 0) != b.scores.get(step, 0) for a, b in pairs for step in (1, 2))
    assert verified.score == pytest.approx(
        models.rewards[0].score(verified.image[None], [PROMPT.text])[0], abs=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_can_be_all_that_counts(models: Models, name: str) -> None:
    costs = CostModel(denoise=1, decode=0, reward=0, steps=STEPS, unit="NFE")
    result = models.search(name, costs=costs, budget=30)
    assert 30 - STEPS < result.spent == result.nfe <= 30
    assert result.unit == "NFE"


@pytest.mark.parametrize("name", METHODS)
def test_seconds_are_planned_by_what_they_buy(models: Models, name: str) -> None:
    # Prices are far too low, as on a machine that is slower than it was thought to be.
    costs = CostModel(denoise=1e-4, decode=1e-5, reward=1e-5, steps=STEPS, unit="seconds")
    result = models.search(name, costs=costs, budget=0.3, batch_size=4)
    assert result.spent == pytest.approx(result.seconds, abs=0.05)
    assert len(result.candidates) < 0.3 / costs.cost(1)
    assert result.score == max(c.rewards["clip0"] for c in result.candidates if c.rewards)


@pytest.mark.parametrize("name", ["beam", "noise-zero-order", "eps-greedy"])
def test_looks_ahead_are_planned_as_the_previews_that_they_are(
    models: Models, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is that of one search; were looks priced as decodes, it would be too little."""
    sampler, costs = models.noisy, replace(COSTS, preview=0.01)
    monkeypatch.setattr(sampler, "previewer", tiny_previewer(sampler))
    # Beam: 1 of step 0, then 2 each of steps 1 to 3; the others: 1, then 1 + 2 x 2.
    options, each = (Beam(beams=1, noises=2), 2) if name == "beam" else (OPTIONS[name], 5)
    budget = 1 + each * (LAST + 2 * costs.check + costs.verify)
    result = models.search(name, options, costs=costs, budget=budget)
    assert (result.nfe, result.scored) == (1 + each * LAST, each * LAST)
    assert result.spent == pytest.approx(result.planned) == budget
    assert result.decodes == each
