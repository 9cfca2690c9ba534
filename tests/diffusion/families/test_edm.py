"""EDM against algorithm 2 and table 1 of its paper, written out plainly in double precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.sampling import finish, make
from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import tiny
from ttsnap import search
from ttsnap.config import Model, Preview, Runtime, Sampling, Scheduler
from ttsnap.diffusion import from_pipeline, load_sampler
from ttsnap.diffusion.architectures import ARCHITECTURES
from ttsnap.diffusion.families.edm import EDMPipeline
from ttsnap.errors import UserError
from ttsnap.rewards.brightness import BrightnessReward

LABELS = [0, 2]
PROMPTS = ["Red", " heron "]
STEPS = 4  # of Heun, which take 7 evaluations
PUBLISHED = {"S_churn": 40.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
EVERYWHERE = {"S_churn": 1.2, "S_noise": 1.1}


@cache
def pipeline() -> Any:
    return tiny("edm")


def denoiser(unet: Any, noise_scale: float = 1.0) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """D(x; sigma) of table 1, with sigma_data 0.5."""

    def denoised(x: torch.Tensor, sigma: float) -> torch.Tensor:
        total = sigma**2 + 0.5**2
        c_skip, c_out, c_in = 0.5**2 / total, sigma * 0.5 / total**0.5, 1 / total**0.5
        c_noise = torch.tensor(np.log(sigma) / 4)
        with torch.inference_mode():
            output = unet(
                (c_in * x).float(), noise_scale * c_noise.float(), torch.tensor(LABELS)
            ).sample
        return c_skip * x + c_out * output.double()

    return denoised


def heun(
    denoised: Callable[[torch.Tensor, float], torch.Tensor],
    noises: list[torch.Tensor],
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = np.inf,
    S_noise: float = 1.0,
) -> torch.Tensor:
    """Algorithm 2, with the initial noise and that of each step; the first has none of its own."""
    ramp = np.arange(STEPS) / (STEPS - 1)
    t = [*(80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0]
    for i, noise in enumerate(noises):
        gamma = min(S_churn / STEPS, 2**0.5 - 1) if S_min <= t[i] <= S_max else 0.0
        raised = t[i] + gamma * t[i]
        added = raised**2 - t[i] ** 2
        if i == 0:
            x = noise * (t[0] ** 2 + S_noise**2 * added) ** 0.5
        else:
            x = x + added**0.5 * S_noise * noise
        slope = (x - denoised(x, raised)) / raised
        following = x + (t[i + 1] - raised) * slope
        if t[i + 1] > 0:
            end = (following - denoised(following, t[i + 1])) / t[i + 1]
            following = x + (t[i + 1] - raised) * (slope + end) / 2
        x = following
    return x


@pytest.mark.parametrize("options", [{}, PUBLISHED, EVERYWHERE], ids=["none", "edm", "all"])
def test_equals_algorithm_2(options):
    sampler = make(pipeline(), steps=2 * STEPS - 1, **options)
    assert sampler.stochastic == bool(options)
    drawn = [sampler.noise([10 * i, 10 * i + 1]) for i in range(sampler.steps + 1)]
    state = sampler.start_from(sampler.encode(PROMPTS, ["", ""]), drawn[0])
    for index in range(sampler.steps):
        state, estimate = sampler.step(state, drawn[index + 1] if options else None)
    # The noise of step i of the paper is added by the evaluation before, which ends step i - 1.
    noises = [drawn[0], *drawn[2 : 2 * STEPS : 2]]
    expected = heun(denoiser(pipeline().unet), [noise.double() for noise in noises], **options)
    # Rounding at a noise level of 80 is what the tolerance has to be for.
    torch.testing.assert_close(state.latents.double(), expected, rtol=1e-5, atol=5e-5)
    assert torch.equal(estimate, state.latents)


def test_only_noise_where_churn_is_matters():
    sampler = make(pipeline(), steps=2 * STEPS - 1, **PUBLISHED)
    state = sampler.start(sampler.encode(["0"], [""]), [1])
    mattered = []
    for _ in range(sampler.steps):
        one, other = (sampler.step(state, sampler.noise([seed]))[0] for seed in (2, 3))
        mattered.append(not torch.equal(one.latents, other.latents))
        state = one
    # The noise levels at which steps begin are 80, 8.9, 0.39 and 0.002.
    assert mattered == [False, True, False, True, False, False, False]


def test_estimates_are_what_the_network_denoises():
    sampler = make(pipeline(), steps=2 * STEPS - 1)
    denoised = denoiser(pipeline().unet)
    state = sampler.start(sampler.encode(PROMPTS, ["", ""]), [1, 2])
    for sigma in sampler.sigmas[:-1]:
        expected = denoised(state.latents.double(), float(sigma))
        state, estimate = sampler.step(state)
        torch.testing.assert_close(estimate.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_converted_checkpoint_of_imagenet_64_is_denoised_by(tmp_path):
    """Its architecture, and its scale of c_noise, but tiny; saved and loaded as a model folder."""
    torch.manual_seed(0)
    published = ARCHITECTURES["edm"].denoiser
    unet = diffusers.UNet2DModel.from_config(
        {
            **published,
            "sample_size": 32,
            "block_out_channels": [32, 64, 64, 64],
            "layers_per_block": 1,
            "attention_head_dim": 8,
            "num_class_embeds": 4,
        }
    )
    unet.eval()
    EDMPipeline(unet, diffusers.EDMEulerScheduler(), noise_scale=1000).save_pretrained(tmp_path)
    settings = Sampling(
        steps=7,
        guidance_scale=1,
        height=32,
        width=32,
        scheduler=Scheduler(name="EDMHeunScheduler"),
    )
    sampler = load_sampler(Model(family="edm", path=str(tmp_path)), settings, Runtime())
    state = sampler.start(sampler.encode(["0", "2"], ["", ""]), [1, 2])
    denoised = denoiser(unet, noise_scale=1000)
    for sigma in sampler.sigmas[:-1]:
        expected = denoised(state.latents.double(), float(sigma))
        state, estimate = sampler.step(state)
        torch.testing.assert_close(estimate.double(), expected, rtol=1e-4, atol=1e-4)


def test_steps_count_evaluations():
    assert len(make(pipeline(), steps=35).sigmas) == 35  # the 18 steps of the paper
    with pytest.raises(UserError, match="EDMHeunScheduler cannot make exactly 36 denoiser eval"):
        make(pipeline(), steps=36)


def test_half_precision_keeps_latents_whole():
    pipe = tiny("edm").to(torch.bfloat16)
    halved, whole = (make(one) for one in (pipe, pipeline()))
    ends = [
        finish(sampler, sampler.start(sampler.encode(["0"], [""]), [1]))[0].latents
        for sampler in (halved, whole)
    ]
    assert ends[0].dtype == torch.float32
    assert 0 < (ends[0] - ends[1]).abs().max() < 0.5


def test_pixels_are_clipped():
    values = torch.tensor([-1.2, -1, -0.5, 0.5, 1, 3])
    latents = values.view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    images = make(pipeline()).decode(latents)
    assert images.shape == (6, 32, 32, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 0, 64, 191, 255, 255]


def test_a_prompt_is_a_class():
    sampler = make(pipeline())
    rows = sampler.encode(["red", "HERON", "3", 'blue 😀 "/'], [""] * 4).tensors["prompt"]
    assert rows.tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("reed", "'reed': no such class; expected a class's name or number; did you mean red"),
        ("", "no such class"),
        ("4", "no such class"),
        ("crane", r"more than one class; give a number of \[2, 3\]"),
    ],
)
def test_other_prompts_are_one_line(prompt, problem):
    with pytest.raises(UserError, match=problem) as raised:
        make(pipeline()).encode([prompt], [""])
    assert "\n" not in str(raised.value)


def test_costs_count_a_class():
    costs = make(pipeline()).costs()
    assert costs["denoise"] > 0
    assert costs["decode"] == 0


def test_a_pipeline_in_hand_is_searched():
    reward = BrightnessReward()
    found = search(
        pipeline(),
        "heron",
        reward=reward,
        method="best-of-n",
        budget="70nfe",
        keep_finals=True,
        progress=False,
    )
    assert found.image.shape == (32, 32, 3)
    assert len(found.finals) == 2
    assert found.score == max(reward.score(np.stack([*found.finals.values()]), ["heron"] * 2))
    with pytest.raises(UserError, match="EDM has no guidance; expected 1, not 5"):
        search(pipeline(), "heron", reward=reward, guidance_scale=5.0)


def test_a_search_of_the_noise_has_churn():
    found = search(
        pipeline(),
        "heron",
        reward=BrightnessReward(),
        method="eps-greedy",
        num_inference_steps=7,
        budget="56nfe",
        progress=False,
    )
    assert found.spent <= 56
    assert make(pipeline()).with_noise().sampling.scheduler.options == PUBLISHED


def test_what_edm_has_not():
    pipe = pipeline()
    heun = Scheduler(name="EDMHeunScheduler")
    with pytest.raises(UserError, match="guidance_scale: EDM has no guidance; expected 1, not 2"):
        from_pipeline(pipe, Sampling(steps=5, guidance_scale=2, scheduler=heun))
    with pytest.raises(UserError, match="no scheduler for an EDM; choose EDMHeunScheduler"):
        make(pipe, name="DDIMScheduler")
    with pytest.raises(UserError, match="EDMHeunScheduler is for EDM only"):
        make(tiny_stable_diffusion(), name="EDMHeunScheduler")
    with pytest.raises(UserError, match="S_churn must not be negative"):
        make(pipe, S_churn=-1.0)
    model = Model(family="edm", path=".", preview=Preview(path="."))
    with pytest.raises(UserError, match=r"model\.preview: there are no previews for edm"):
        load_sampler(model, Sampling(), Runtime())
    pipe = tiny("edm")
    pipe.register_to_config(id2label={"4": "one too many"})
    with pytest.raises(UserError, match="has 4 classes; expected some, and no others as id2label"):
        make(pipe)
