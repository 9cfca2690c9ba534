"""What a pipeline samples if its call is told nothing, and what is given to it as it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.sampling import call, finish, images_of, make
from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import TINY, tiny, tiny_flux_schnell
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import SAMPLERS, family_of, from_pipeline, sampler_class
from ttsnap.errors import UserError

IMAGES = [name for name in TINY if name != "edm" and not SAMPLERS[name].videos]
CALLED = [name for name in TINY if name != "edm"]


@cache
def pipeline(family: str) -> Any:
    return tiny(family)


def defaults(pipe: Any) -> Sampling:
    return sampler_class(family_of(pipe)).defaults(pipe)


@pytest.mark.parametrize("family", IMAGES)
def test_what_is_not_said_is_what_the_call_does(family):
    pipe = tiny(family)
    if hasattr(pipe, "default_sample_size"):  # the pipeline's own, for its transformer has none
        pipe.default_sample_size = 8
    sampling = defaults(pipe)
    if family == "z-image":  # whose size is a number in the pipeline's code
        sampling = sampling.model_copy(update={"height": 32, "width": 32})
    assert (sampling.height, sampling.width, sampling.frames) == (32, 32, 1)
    sampler = from_pipeline(pipe, sampling)
    final, _ = finish(sampler, sampler.start(sampler.encode(["red"], [""]), [1]))
    options = {}
    if family in ("pixart-sigma", "sana", "sana-sprint"):
        options = {"use_resolution_binning": False, "clean_caption": False}
    if family == "sana-sprint":
        options["generator"] = torch.Generator().manual_seed(5)
    if family in (
        "sana",
        "sana-sprint",
        "z-image",
    ):  # a call of Sana without a size would resize the picture
        options |= {"height": 32, "width": 32}
    if family == "qwen-image":  # without which its call would take no guidance
        options["negative_prompt"] = ""
    image = pipe(prompt="red", latents=sampler.noise([1]), output_type="np", **options)[0]
    np.testing.assert_array_equal(sampler.decode(final.latents), (image * 255).round())


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("stable-diffusion", (512, 512, 1, 50, 7.5)),
        ("sdxl", (1024, 1024, 1, 50, 5.0)),
        ("flux", (1024, 1024, 1, 28, 3.5)),
        ("stable-diffusion-3", (1024, 1024, 1, 28, 7.0)),
        ("pixart-sigma", (1024, 1024, 1, 20, 4.5)),
        ("sana", (1024, 1024, 1, 20, 4.5)),
        ("sana-sprint", (1024, 1024, 1, 2, 4.5)),
        ("z-image", (1024, 1024, 1, 50, 5.0)),
        ("flux2", (1024, 1024, 1, 50, 4.0)),
        ("flux2-klein", (1024, 1024, 1, 50, 4.0)),
        ("qwen-image", (1024, 1024, 1, 50, 4.0)),
        ("chroma", (1024, 1024, 1, 35, 5.0)),
        ("ltx", (512, 704, 161, 50, 3.0)),
        ("wan", (480, 832, 81, 50, 5.0)),
        ("edm", (64, 64, 1, 35, 1.0)),
    ],
)
def test_published_sizes(family, expected):
    """With the factors and sizes of the published configs in place of the tiny ones."""
    pipe = tiny(family)
    latents = {"stable-diffusion": 64, "edm": 64, "sana": 32, "sana-sprint": 32}.get(family, 128)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if "sample_size" in denoiser.config:
        denoiser.register_to_config(sample_size=latents)
    if hasattr(pipe, "default_sample_size"):
        pipe.default_sample_size = 128
    if not SAMPLERS[family].videos and family != "edm":
        pipe.vae_scale_factor = 32 if family.startswith("sana") else 8
    found = defaults(pipe)
    size = (found.height, found.width, found.frames)
    assert (*size, found.steps, found.guidance_scale) == expected
    own = "EDMHeunScheduler" if family == "edm" else type(pipe.scheduler).__name__
    assert found.scheduler == Scheduler(name=own)


def test_oblong_sizes_of_a_unet():
    pipe = tiny("stable-diffusion")
    pipe.unet.register_to_config(sample_size=[8, 16])
    assert (defaults(pipe).height, defaults(pipe).width) == (32, 64)


@pytest.mark.parametrize(
    ("name", "options", "steps", "stochastic"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True}, 51, False),
        ("HeunDiscreteScheduler", {}, 99, False),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, 1, False),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "linspace"}, 50, True),
        ("LCMScheduler", {}, 4, True),
        ("TCDScheduler", {}, 4, False),
    ],
)
def test_the_models_own_scheduler_is_taken_with_its_settings(name, options, steps, stochastic):
    """Steps are evaluations, of which some schedulers make more than the call's steps."""
    pipe = tiny("sdxl")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    found = defaults(pipe)
    assert (found.steps, found.scheduler.name) == (steps, name)
    sampler = from_pipeline(pipe, found)
    assert sampler.stochastic is stochastic
    pipe.scheduler.set_timesteps(found.steps if found.steps < 50 else 50)
    assert sampler._scheduler.timesteps.tolist() == pipe.scheduler.timesteps.tolist()


def with_scheduler(pipe: Any, name: str, **options: Any) -> Any:
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    return pipe


@pytest.mark.parametrize(
    ("model", "make", "expected"),
    [
        ("FLUX.1-schnell", tiny_flux_schnell, (4, 0.0)),
        (
            "a FLUX.1-dev without distillation",
            lambda: with_scheduler(
                tiny_flux_schnell(), "FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True
            ),
            (28, 3.5),
        ),
        (
            "Z-Image-Turbo",
            lambda: with_scheduler(tiny("z-image"), "FlowMatchEulerDiscreteScheduler", shift=3.0),
            (9, 0.0),
        ),
        (
            "SDXL-Turbo",
            lambda: with_scheduler(
                tiny("sdxl"), "EulerAncestralDiscreteScheduler", timestep_spacing="trailing"
            ),
            (1, 0.0),
        ),
        (
            "an SDXL of v-prediction and no noise left",
            lambda: with_scheduler(
                tiny("sdxl"),
                "EulerDiscreteScheduler",
                timestep_spacing="trailing",
                prediction_type="v_prediction",
                rescale_betas_zero_snr=True,
            ),
            (50, 5.0),
        ),
        (
            "a latent consistency model",
            lambda: with_scheduler(tiny_stable_diffusion(time_cond_proj_dim=8), "LCMScheduler"),
            (4, 7.5),
        ),
        ("LCM as a LoRA", lambda: with_scheduler(tiny("sdxl"), "LCMScheduler"), (4, 1.0)),
    ],
)
def test_models_that_were_distilled_take_few_steps(model, make, expected):
    found = defaults(make())
    assert (found.steps, found.guidance_scale) == expected


@pytest.mark.parametrize("family", CALLED)
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 1.5])
def test_guidance_is_what_the_call_makes_of_it(family, guidance_scale):
    pipe = pipeline(family)
    sampler = make(pipe, guidance_scale)
    expected = call(pipe, guidance_scale=guidance_scale, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler), expected)
    embedded = family in ("flux", "flux2", "sana-sprint")
    assert sampler.guided is (guidance_scale > sampler.guided_above and not embedded)
    same = np.array_equal(images_of(make(pipe, 0.0)), images_of(make(pipe, 1.0)))
    assert same is not (embedded or family == "z-image")


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 1.5])
def test_guidance_that_is_embedded_in_a_unet(guidance_scale):
    pipe = tiny_stable_diffusion(time_cond_proj_dim=8)
    sampler = make(pipe, guidance_scale)
    assert not sampler.guided
    expected = call(pipe, guidance_scale=guidance_scale, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler), expected)


def test_a_model_of_classes_has_no_guidance():
    pipe = pipeline("edm")
    settings = make(pipe).sampling
    for scale in (0.0, 1.0):
        sampler = from_pipeline(pipe, settings.model_copy(update={"guidance_scale": scale}))
        assert not sampler.guided
    with pytest.raises(UserError, match="EDM has no guidance"):
        from_pipeline(pipe, settings.model_copy(update={"guidance_scale": 1.5}))
