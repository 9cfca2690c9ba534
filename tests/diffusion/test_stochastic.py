"""Schedulers that draw their own noise follow the stock ones when given the same."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.sampling import NEGATIVES, STEPS, TEXTS, begin, call, images_of, make
from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import tiny
from ttsnap.diffusion.sampler import Sampler


def images_with(sampler: Sampler, generator: torch.Generator | None) -> np.ndarray:
    """Two pictures, each step's noise drawn in turn as a pipeline would draw it."""
    state = sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 2])
    while not state.done:
        noise = torch.randn(state.latents.shape, generator=generator)
        state, _ = sampler.step(state, noise)
    return sampler.decode(state.latents)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_euler_ancestral_equals_the_pipeline_given_the_same_noise(prediction_type):
    pipe = tiny_stable_diffusion(prediction_type=prediction_type)
    sampler = make(pipe, name="EulerAncestralDiscreteScheduler")
    assert sampler.stochastic
    images = images_with(sampler, torch.Generator().manual_seed(5))
    scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    latents, generator = sampler.noise([1, 2]), torch.Generator().manual_seed(5)
    np.testing.assert_array_equal(
        images, call(pipe, scheduler, latents=latents, generator=generator)
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("name", "eta"), [("LCMScheduler", None), ("TCDScheduler", 0.3)])
def test_distilled_solvers_equal_the_pipeline_given_the_same_noise(name, eta, prediction_type):
    pipe = tiny_stable_diffusion(prediction_type=prediction_type)
    given = {} if eta is None else {"eta": eta}
    sampler = make(pipe, name=name, **given)
    assert sampler.stochastic
    before = torch.random.get_rng_state()
    images = images_with(sampler, torch.Generator().manual_seed(5))
    assert torch.equal(before, torch.random.get_rng_state())
    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    latents, generator = sampler.noise([1, 2]), torch.Generator().manual_seed(5)
    expected = call(pipe, scheduler, latents=latents, generator=generator, **given)
    np.testing.assert_array_equal(images, expected)


def test_without_eta_trajectory_consistency_is_deterministic():
    pipe = tiny("sdxl")
    sampler = make(pipe, name="TCDScheduler")
    assert not sampler.stochastic
    scheduler = diffusers.TCDScheduler.from_config(pipe.scheduler.config)
    expected = call(pipe, scheduler, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler), expected)


@pytest.mark.parametrize("family", ["flux", "stable-diffusion-3"])
def test_stochastic_flow_equals_the_pipeline_given_the_same_noise(family):
    pipe = tiny(family)
    sampler = make(pipe, stochastic_sampling=True)
    assert sampler.stochastic
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, stochastic_sampling=True
    )
    latents = sampler.noise([1, 2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # the pipeline has its scheduler use the global generator
        expected = call(pipe, scheduler, latents=latents)
        torch.manual_seed(5)
        images = images_with(sampler, None)
    np.testing.assert_array_equal(images, expected)


@pytest.fixture(
    params=[
        ("stable-diffusion", "EulerAncestralDiscreteScheduler", {}),
        ("flux", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
        ("flux", "FlowMatchSDEScheduler", {}),
        ("sdxl", "LCMScheduler", {}),
        ("sdxl", "TCDScheduler", {"eta": 0.3}),
        ("sana-sprint", "SCMScheduler", {}),
        ("edm", "EDMHeunScheduler", {"S_churn": 40.0, "S_noise": 1.003}),
    ],
    ids=["ancestral", "flow", "flow-sde", "lcm", "tcd", "scm", "edm"],
)
def sampler(request) -> Sampler:
    family, name, options = request.param
    pipe: Any = tiny(family)
    return make(pipe, name=name, **options)


def test_noise_branches_a_state(sampler):
    state, _ = sampler.step(begin(sampler), sampler.noise([7, 8, 9]))
    one, estimate = sampler.step(state, sampler.noise([10, 11, 12]))
    other, again = sampler.step(state, sampler.noise([10, 13, 14]))
    same = [torch.equal(a, b) for a, b in zip(one.latents, other.latents, strict=True)]
    assert same == [True, False, False]
    assert torch.equal(estimate, again)


def test_the_last_estimate_is_the_final_image(sampler):
    state = begin(sampler)
    for step in range(STEPS):
        state, estimate = sampler.step(state, sampler.noise([step, 1, 2]))
    assert torch.equal(estimate, state.latents)


def test_noise_is_given_where_it_is_needed_and_only_there(sampler):
    with pytest.raises(ValueError, match="needs noise"):
        sampler.step(begin(sampler))
    deterministic = make(tiny("flux"))
    assert not deterministic.stochastic
    with pytest.raises(ValueError, match="deterministic"):
        deterministic.step(begin(deterministic), deterministic.noise([1, 2, 3]))
