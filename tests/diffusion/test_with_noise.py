"""Where noise enters a step, and the stochastic schedulers that families bring for it."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.sampling import begin, make, sampling_of, tiny_previewer
from tests.tiny_families import TINY, tiny
from ttsnap.config import NegToMe, Scheduler
from ttsnap.diffusion import from_pipeline, schedulers
from ttsnap.diffusion.sampler import Sampler
from ttsnap.diffusion.schedulers import matches_flow

FLOW = [name for name in TINY if matches_flow(tiny(name).scheduler)]

OPEN_END = {"set_alpha_to_one": False, "timestep_spacing": "leading"}
"""As Stable Diffusion 1.5 is published: its last step ends a little above no noise."""

each_family = pytest.mark.parametrize("family", TINY)
each_deterministic = pytest.mark.parametrize(
    "family", [name for name in TINY if name != "sana-sprint"]
)


@cache
def pipeline(family: str) -> Any:
    return tiny(family)


def where_noise_matters(sampler: Sampler) -> list[int]:
    """Steps at which another noise makes other latents, found by taking them with the model."""
    state = begin(sampler, seeds=[1])
    found = []
    for step in range(sampler.steps):
        one, other = (sampler.step(state, sampler.noise([seed]))[0] for seed in (2, 3))
        if not torch.equal(one.latents, other.latents):
            found.append(step)
        state = one
    return found


@pytest.mark.parametrize(
    ("family", "name", "options", "steps", "noisy"),
    [
        ("stable-diffusion", "DDIMScheduler", {"eta": 1.0}, 5, [0, 1, 2, 3]),
        (
            "stable-diffusion",
            "DDIMScheduler",
            {"eta": 0.3} | OPEN_END,
            3,
            [0, 1, 2],
        ),
        ("stable-diffusion", "EulerAncestralDiscreteScheduler", {}, 5, [0, 1, 2, 3]),
        (
            "stable-diffusion",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
            5,
            [0, 1, 2, 3],
        ),
        ("sdxl", "LCMScheduler", {}, 4, [0, 1, 2]),
        ("sdxl", "TCDScheduler", {"eta": 0.3}, 4, [0, 1, 2]),
        ("sana-sprint", "SCMScheduler", {}, 4, [0, 1, 2]),
        ("sana-sprint", "SCMScheduler", {}, 1, []),
        ("sdxl", "LCMScheduler", {}, 1, []),
        ("edm", "EDMHeunScheduler", {"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0}, 7, [1, 3]),
        ("flux", "FlowMatchSDEScheduler", {}, 5, [0, 1, 2, 3]),
        ("flux", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, 3, [0, 1]),
    ],
)
def test_noisy_steps_are_those_at_which_noise_matters(family, name, options, steps, noisy):
    sampler = make(pipeline(family), steps=steps, name=name, **options)
    assert sampler.noisy_steps == tuple(noisy)
    assert where_noise_matters(sampler) == noisy


@each_deterministic
def test_a_deterministic_sampler_has_no_noisy_steps(family):
    sampler = make(pipeline(family))
    assert not sampler.stochastic
    assert sampler.noisy_steps == ()


@each_family
def test_every_family_has_steps_with_noise(family):
    plain = make(pipeline(family), steps=7)
    sampler = plain.with_noise()
    assert type(sampler) is type(plain)
    assert sampler.pipe is plain.pipe
    assert (sampler.steps, sampler.latent_shape) == (plain.steps, plain.latent_shape)
    assert sampler.guided == plain.guided
    assert sampler.stochastic
    assert sampler.noisy_steps
    assert list(sampler.noisy_steps) == where_noise_matters(sampler)
    assert sampler.with_noise() is sampler
    assert plain.with_noise() is sampler
    assert (plain is sampler) is (family == "sana-sprint")


@each_family
def test_branches_follow_from_their_noise(family):
    sampler = make(pipeline(family), steps=7).with_noise()
    state = begin(sampler)
    while state.index < sampler.noisy_steps[1]:
        state, _ = sampler.step(state, sampler.noise([7, 8, 9]))
    state = sampler.evaluate(state)
    one, estimate = sampler.step(state, sampler.noise([10, 11, 12]))
    other, again = sampler.step(state, sampler.noise([10, 13, 14]))
    same = [torch.equal(a, b) for a, b in zip(one.latents, other.latents, strict=True)]
    assert same == [True, False, False]
    assert torch.equal(estimate, again)
    alone, _ = sampler.step(sampler.select(state, [2]), sampler.noise([14]))
    torch.testing.assert_close(alone.latents[0], other.latents[2])


def test_a_stochastic_scheduler_is_kept():
    sampler = make(pipeline("sdxl"), name="EulerAncestralDiscreteScheduler")
    assert sampler.with_noise() is sampler


def test_switches_and_preview_decoder_go_along():
    sampler = make(pipeline("sdxl"))
    sampler.previewer = tiny_previewer(sampler)
    sampler.release_text_encoders, sampler.decodes_aside = True, False
    noisy = sampler.with_noise()
    assert noisy.previewer is sampler.previewer
    assert (noisy.release_text_encoders, noisy.decodes_aside) == (True, False)


@pytest.mark.parametrize("family", FLOW)
def test_noise_levels_of_the_flow_are_its_own(family):
    """With the shift of the model, which may depend on the size of the picture."""
    plain = make(pipeline(family), name="FlowMatchEulerDiscreteScheduler")
    np.testing.assert_array_equal(plain.with_noise().sigmas, plain.sigmas)
    options = {"use_dynamic_shifting": False}
    shifted = make(pipeline(family), name="FlowMatchEulerDiscreteScheduler", shift=9.0, **options)
    assert shifted.sigmas[2] > plain.sigmas[2]
    np.testing.assert_array_equal(shifted.with_noise().sigmas, shifted.sigmas)


def test_a_shift_by_another_name_is_kept():
    sampler = make(pipeline("wan"), flow_shift=9.0).with_noise()
    assert sampler.sigmas[2] == pytest.approx(9 * 0.5 / (1 + 8 * 0.5), abs=0.01)


def test_what_describes_the_model_is_kept_and_spacing_that_ddim_lacks_is_not():
    asked = Scheduler(options={"prediction_type": "v_prediction", "timestep_spacing": "linspace"})
    made = schedulers.in_place_of(asked, schedulers.DDIM_WITH_NOISE)
    assert made.name == "DDIMScheduler"
    assert made.options == {"prediction_type": "v_prediction", "eta": 1.0}
    asked = Scheduler(options={"timestep_spacing": "trailing", "use_karras_sigmas": True})
    made = schedulers.in_place_of(asked, schedulers.DDIM_WITH_NOISE)
    assert made.options == {"timestep_spacing": "trailing", "eta": 1.0}


def test_merging_of_tokens_is_left_out_with_one_notice(caplog):
    pipe = pipeline("sdxl")
    negtome = NegToMe(where="up", min_width=2, t_end=500.0)
    settings = sampling_of(pipe).model_copy(update={"negtome": negtome})
    sampler = from_pipeline(pipe, settings)
    with caplog.at_level(logging.WARNING, logger="ttsnap"):
        noisy = sampler.with_noise()
        sampler.with_noise()
    assert len(caplog.records) == 1
    assert "negative token merging is left out" in caplog.text
    assert (noisy.negtome, noisy.coupling, noisy.coupled) == (None, None, [])
    assert sampler.coupling is not None


MEAN, DEVIATION = torch.tensor([3.0, -1.0, 0.0]), torch.tensor([0.5, 1.0, 2.0])


def velocity(x: torch.Tensor, s: float) -> torch.Tensor:
    """Of the flow between N(MEAN, DEVIATION^2) and standard normal noise."""
    variance = (1 - s) ** 2 * DEVIATION**2 + s**2
    centred = (x - (1 - s) * MEAN) / variance
    return s * centred - (MEAN + (1 - s) * DEVIATION**2 * centred)


def flow(name: str, steps: int, shift: float) -> list[torch.Tensor]:
    """Samples (40000, 3) before each step, and at the end."""
    scheduler, eta = schedulers.make_scheduler(
        Scheduler(name=name, options={"shift": shift}),
        diffusers.FlowMatchEulerDiscreteScheduler(),
        steps,
        torch.device("cpu"),
        lambda _: {"sigmas": np.linspace(1, 1 / steps, steps)},
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 3, generator=generator)
    trail = [x]
    for index, sigma in enumerate(schedulers.noise_levels(scheduler)):
        noise = torch.randn(x.shape, generator=generator) if "SDE" in name else None
        output = velocity(x, float(sigma))
        scheduler, following, estimate = schedulers.step(
            scheduler, index, x, output, float(sigma), eta, noise
        )
        torch.testing.assert_close(estimate, x - sigma * output)
        x = following
        trail.append(x)
    torch.testing.assert_close(x, estimate)
    return trail


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [10, 28, 100])
def test_the_marginals_of_the_flow_are_kept(steps, shift):
    """At every noise level those of Euler's method on the flow: noise costs no quality.

    Sampling errors are 0.5 % of a deviation. Ten steps of Euler itself give deviations that are up
    to a quarter too small; the step with noise is 2 % from these, and with more steps nearer.
    """
    stochastic, deterministic = (
        flow(name, steps, shift)
        for name in ("FlowMatchSDEScheduler", "FlowMatchEulerDiscreteScheduler")
    )
    close = 0.02 + 0.2 / steps
    for one, other in zip(stochastic, deterministic, strict=True):
        torch.testing.assert_close(one.mean(0), other.mean(0), rtol=0, atol=close)
        torch.testing.assert_close(one.std(0), other.std(0), rtol=close, atol=0)
    moved = np.corrcoef(stochastic[0][:, 1], stochastic[-1][:, 1])[0, 1]
    assert moved < 0.5  # of the initial noise; without noise it decides all
    assert np.corrcoef(deterministic[0][:, 1], deterministic[-1][:, 1])[0, 1] > 0.999


def test_many_steps_end_in_the_data():
    final = flow("FlowMatchSDEScheduler", 300, 1.0)[-1]
    torch.testing.assert_close(final.mean(0), MEAN, rtol=0, atol=0.03)
    torch.testing.assert_close(final.std(0), DEVIATION, rtol=0.02, atol=0)
