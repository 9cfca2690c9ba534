"""The one place that builds a search, and what it keeps from prompt to prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.sampling import with_little_memory
from tests.searches import COSTS, FULL, OPTIONS, PROMPT, SEED, STEPS, Function, Models
from ttsnap.config import Costs, Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.rewards.ensemble import Ensemble, Member
from ttsnap.searching import METHODS
from ttsnap.searching.budget import Budget
from ttsnap.searching.searcher import Searcher

PROMPTS = [Prompt(f"p{i}", f"a {name} circle", "dull", i) for i, name in enumerate("abcdef")]
TFLOPS = Budget(3 * FULL, "TFLOPs")


@pytest.fixture
def searcher(models: Models) -> Searcher:
    return Searcher(models.plain, models.rewards[:1], costs=COSTS, batch_size=16)


def counted(patch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple[object, ...]]:
    """Arguments of the calls of a method from here on."""
    calls: list[tuple[object, ...]] = []
    method: Callable[..., object] = getattr(owner, name)

    def watched(*arguments: object) -> object:
        calls.append(arguments)
        return method(*arguments)

    patch.setattr(owner, name, watched)
    return calls


def test_texts_are_encoded_at_once_and_wait_in_main_memory(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With released encoders, T5 is moved to the device and back once for 6 prompts."""
    pipe = models.plain.pipe
    sampler = from_pipeline(pipe, Sampling(steps=STEPS, guidance_scale=4.0))
    sampler.release_text_encoders = True
    moves = counted(monkeypatch, pipe.text_encoder, "to")
    searcher = Searcher(sampler, models.rewards[:1], costs=COSTS)
    searcher.expect(PROMPTS)
    found = [searcher.run(prompt, "best-of-n", budget=TFLOPS, seed=SEED) for prompt in PROMPTS]
    assert len(moves) == 2
    alone = Searcher(sampler, models.rewards[:1], costs=COSTS)
    for prompt, one in zip(PROMPTS, found, strict=True):
        again = alone.run(prompt, "best-of-n", budget=TFLOPS, seed=SEED)
        np.testing.assert_array_equal(one.image, again.image)
    assert len(moves) == 2 + 2 * len(PROMPTS)
    assert all(
        tensor.device == torch.device("cpu")
        for texts in searcher._encoded.values()
        for tensor in texts.tensors.values()
    )


def test_what_was_learnt_about_memory_is_kept(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts used to try 8, 4, 2 each."""
    tried = with_little_memory(searcher.sampler, monkeypatch)
    for prompt in PROMPTS[:3]:
        searcher.run(prompt, "best-of-n", budget=Budget(8 * FULL, "TFLOPs"), seed=SEED)
    assert tried["evaluate"][:3] == [8, 4, 2]
    assert set(tried["evaluate"][3:]) == {2}
    assert set(tried["decode"][4:]) == {1}


def test_prices_are_measured_once(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = Searcher(models.plain, models.rewards, costs=Costs(denoise=2.0))
    calls = counted(monkeypatch, models.plain, "costs")
    first = searcher.prices("TFLOPs")
    for prompt in PROMPTS[:2]:
        searcher.run(prompt, "best-of-n", budget=Budget(2.5 * first.cost(1), "TFLOPs"))
    assert first.denoise == 2.0
    assert first.reward == sum(reward.tflops(32, 32) for reward in models.rewards)
    assert len(calls) == 1
    assert searcher.prices("NFE").cost(1) == STEPS
    given = Searcher(models.plain, models.rewards, costs=COSTS)
    assert given.prices("TFLOPs") == COSTS


def test_a_sampler_is_compiled_before_the_clock_runs(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = from_pipeline(models.plain.pipe, Sampling(steps=STEPS, guidance_scale=4.0))
    sampler.batch_sizes = (1, 2, 4)
    calls = counted(monkeypatch, sampler, "evaluate")
    searcher = Searcher(sampler, models.rewards[:1], costs=replace(COSTS, unit="seconds"))
    found = [
        searcher.run(PROMPT, "best-of-n", budget=Budget(2 * FULL, "seconds")) for _ in range(2)
    ]
    sizes = [state.running for (state,) in calls]  # type: ignore[attr-defined]
    assert sizes[:3] == [1, 2, 4]
    assert sum(sizes) == 1 + 2 + 4 + sum(one.nfe for one in found)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_needs_noise_is_given_some(searcher: Searcher, name: str) -> None:
    method = METHODS[name]
    assert searcher.sampler_for(method).stochastic == method.needs_noise
    found = searcher.run(PROMPT, name, OPTIONS[name], budget=TFLOPS, seed=SEED)
    recipes = {len(c.noises) for c in found.candidates if c.rewards}
    assert recipes == ({STEPS + 1} if method.needs_noise else {1})
    assert searcher.sampler_for(method) is searcher.sampler_for(method)


@pytest.mark.parametrize("name", ["best-of-n", "beam"])
def test_a_stochastic_scheduler_is_kept(models: Models, name: str) -> None:
    scheduler = Scheduler(name="EulerAncestralDiscreteScheduler")
    sampling = Sampling(steps=STEPS, guidance_scale=1.0, scheduler=scheduler)
    searcher = Searcher(from_pipeline(models.plain.pipe, sampling), models.rewards[:1], costs=COSTS)
    assert searcher.sampler_for(METHODS[name]) is searcher.sampler
    assert searcher.run(PROMPT, name, OPTIONS[name], budget=TFLOPS, seed=SEED).nfe > STEPS


def test_noise_without_any_effect_is_refused(models: Models) -> None:
    scheduler = Scheduler(name="DDIMScheduler", options={"eta": 1.0, "timestep_spacing": "leading"})
    sampling = Sampling(steps=2, guidance_scale=1.0, scheduler=scheduler)
    sampler = from_pipeline(models.plain.pipe, sampling)
    sampler.noisy_steps = ()
    searcher = Searcher(sampler, models.rewards[:1], costs=replace(COSTS, steps=2))
    with pytest.raises(UserError, match="method beam: searches the noise of the steps, but none"):
        searcher.run(PROMPT, "beam", budget=TFLOPS)


def test_ttsp_looks_by_the_rewards_whatever_verifiers_there_are(models: Models) -> None:
    never = Function(lambda images: np.full(len(images), np.nan), "never")
    found = [models.search("ttsp", verifiers=verifiers) for verifiers in ({}, {1: (never,)})]
    assert [c.scores for c in found[0].candidates] == [c.scores for c in found[1].candidates]


def test_two_functions_of_one_name_are_two_rewards(models: Models) -> None:
    rewards = [
        Function(lambda images: images.mean(axis=(1, 2, 3)), "<lambda>"),
        Function(lambda images: -images.std(axis=(1, 2, 3)), "<lambda>"),
    ]
    result = models.search("best-of-n", rewards=rewards)
    assert result.rewards == ("<lambda>", "<lambda>-2")
    finals = [c.rewards for c in result.candidates]
    assert all(set(one) == {"<lambda>", "<lambda>-2"} for one in finals)
    assert all(one["<lambda>"] > 0 > one["<lambda>-2"] for one in finals)


def test_ranks_within_a_batch_do_not_search(models: Models) -> None:
    ensemble = Ensemble([Member(models.rewards[0]), Member(BrightnessReward())], "rank", "both")
    with pytest.raises(UserError, match=r"both: ranks images that are scored together"):
        Searcher(models.plain, [ensemble])


def test_an_unknown_method_and_a_missing_option_are_refused(searcher: Searcher) -> None:
    with pytest.raises(UserError, match="method best: unknown; did you mean best-of-n"):
        searcher.run(PROMPT, "best", budget=TFLOPS)
    with pytest.raises(UserError, match="method ttsp: needs schedule"):
        searcher.run(PROMPT, "ttsp", budget=TFLOPS)


def test_what_overflowed_in_a_search_that_was_ended_is_not_told_of_the_next(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a notebook's kernel is interrupted between an evaluation and its decode."""
    sampler = searcher.sampler

    def overflows(model_input: torch.Tensor, *others: object) -> torch.Tensor:
        return torch.full_like(model_input, torch.inf)

    def ended(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "denoise", overflows)
        patch.setattr(sampler, "decode", ended)
        with pytest.raises(KeyboardInterrupt):
            searcher.run(PROMPT, "best-of-n", budget=TFLOPS)
    assert searcher.run(PROMPT, "best-of-n", budget=TFLOPS).image.any()
