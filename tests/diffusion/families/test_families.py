"""What every family promises, on tiny instances of the real pipelines."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.sampling import (
    NEGATIVES,
    STEPS,
    TEXTS,
    advance,
    begin,
    call,
    finish,
    frames_of,
    images_of,
    make,
    sampling_of,
)
from tests.tiny_families import (
    TINY,
    tiny,
    tiny_flux2_klein,
    tiny_flux_schnell,
)
from ttsnap.config import Model, Runtime
from ttsnap.diffusion import SAMPLERS, VIDEOS, family_of, from_pipeline, load_sampler, sampler_class
from ttsnap.diffusion.linear_preview import LinearPreview
from ttsnap.diffusion.schedulers import matches_flow
from ttsnap.errors import UserError

GUIDED = [family for family in TINY if family not in ("flux", "flux2", "sana-sprint", "edm")]
IMAGES = [family for family in TINY if family not in VIDEOS]
FLOW = [family for family in TINY if matches_flow(tiny(family).scheduler)]

QWEN_TEMPLATE = (
    "Xsystem\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:X\nXuser\nX\nXassistant\n"
)
"""With a letter for each control token; the pipeline counts 34 of its tokens before the prompt."""

each_family = pytest.mark.parametrize("family", TINY)
each_with_a_call = pytest.mark.parametrize("family", [f for f in TINY if f != "edm"])


@cache
def pipeline(family: str) -> Any:
    return tiny(family)


def test_every_family_is_tested():
    assert set(TINY) == set(SAMPLERS)
    assert [name for name in SAMPLERS if sampler_class(name).frame_rate] == [*VIDEOS]
    for name, family in SAMPLERS.items():
        assert family_of(pipeline(name)) == name
        assert sampler_class(name).pipeline_class == family.pipeline


def test_a_list_of_families_needs_no_torch():
    lines = [
        "import sys",
        "from ttsnap.diffusion import SAMPLERS, VIDEOS",
        "from ttsnap.diffusion.published import ARCHITECTURES",
        "assert all(family.summary for family in SAMPLERS.values())",
        "assert not {'torch', 'diffusers', 'transformers'} & {*sys.modules}",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


@each_with_a_call
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 4.0])
def test_equals_the_pipeline_exactly(family, guidance_scale):
    pipe = pipeline(family)
    sampler = make(pipe, guidance_scale)
    images = images_of(sampler)
    assert images.dtype == np.uint8
    frames = (frames_of(pipe),) if family in VIDEOS else ()
    assert images.shape == (2, *frames, 32, 32, 3)
    assert images.std() > 5
    latents = sampler.noise([1, 2])
    expected = call(pipe, guidance_scale=guidance_scale, latents=latents)
    np.testing.assert_array_equal(images, expected)


@each_with_a_call
def test_a_seed_is_what_it_is_to_the_pipeline(family):
    pipe = pipeline(family)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    steps = 1 if make(pipe).stochastic else STEPS  # later ones would draw from the same generator
    expected = call(pipe, generator=generators, num_inference_steps=steps)
    np.testing.assert_array_equal(images_of(make(pipe, steps=steps)), expected)


@each_with_a_call
def test_equals_the_pipeline_in_half_precision(family):
    pipe = tiny(family).to(torch.bfloat16)
    sampler = make(pipe)
    final, estimates = finish(sampler, begin(sampler))
    assert {e.dtype for e in [final.latents, *estimates]} == {sampler.dtype}
    expected = call(pipe, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler), expected)


@each_with_a_call
def test_oblong_pictures(family):
    pipe = pipeline(family)
    sampler = make(pipe, size=64)
    assert images_of(sampler).shape[-3:] == (64, 32, 3)
    expected = call(pipe, height=64, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler), expected)


def test_schnell_takes_no_guidance():
    pipe = tiny_flux_schnell()
    images = images_of(make(pipe, 1.0))
    np.testing.assert_array_equal(images, images_of(make(pipe, 4.0)))
    sampler = make(pipe)
    np.testing.assert_array_equal(images, call(pipe, latents=sampler.noise([1, 2])))
    assert not np.array_equal(
        images_of(make(pipeline("flux"), 1.0)), images_of(make(pipeline("flux")))
    )


def test_a_distilled_klein_takes_no_guidance():
    pipe = tiny_flux2_klein()
    found = sampler_class("flux2-klein").defaults(pipe)
    assert (found.steps, found.guidance_scale) == (4, 1.0)
    sampler = make(pipe)
    assert not sampler.guided
    images = images_of(sampler)
    np.testing.assert_array_equal(images, images_of(make(pipe, 1.0)))
    np.testing.assert_array_equal(images, call(pipe, latents=sampler.noise([1, 2])))


def test_few_steps_without_guidance():
    """As SDXL Turbo and Lightning are used."""
    pipe = pipeline("sdxl")
    sampler = make(pipe, 1.0, steps=2, timestep_spacing="trailing")
    scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    expected = call(
        pipe,
        scheduler,
        guidance_scale=1.0,
        num_inference_steps=2,
        latents=sampler.noise([1, 2]),
    )
    np.testing.assert_array_equal(images_of(sampler), expected)
    assert set(sampler.encode(TEXTS, NEGATIVES).tensors) == {"prompt", "prompt_pooled"}


def test_an_autoencoder_that_overflows_in_float16_decodes_in_float32(caplog):
    """Once and for all, without the warnings of a cast, and the pipeline stays as it is."""
    pipe = tiny("sdxl").to(torch.float16)
    assert pipe.vae.config.force_upcast
    pipe.vae.enable_tiling()
    sampler = make(pipe, 1.0)
    start = sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 2])
    final, _ = finish(sampler, start)
    caplog.clear()
    images = sampler.decode(final.latents)
    assert not caplog.records
    decoder = sampler.autoencoder
    assert decoder is sampler.autoencoder
    assert (decoder.dtype, decoder.use_tiling) == (torch.float32, True)
    assert {parameter.dtype for parameter in pipe.vae.parameters()} == {torch.float16}
    with pytest.warns(FutureWarning, match="upcast_vae"):  # which this version of diffusers calls
        expected = call(pipe, guidance_scale=1.0, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images, expected)


def test_empty_negative_prompts_of_sdxl_are_zeros():
    pipe = pipeline("sdxl")
    sampler = make(pipe)
    expected = call(pipe, negatives=None, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler, ["", ""]), expected)
    tensors = sampler.encode(TEXTS, ["", "e"]).tensors
    assert not tensors["negative"][0].any()
    assert torch.equal(
        tensors["negative_pooled"][1],
        sampler.encode(TEXTS, NEGATIVES).tensors["negative_pooled"][1],
    )


@pytest.mark.parametrize(
    "name",
    ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"],
)
def test_other_solvers_of_the_flow(name):
    pipe = pipeline("stable-diffusion-3")
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    sampler = make(pipe, name=name, **options)
    scheduler = getattr(diffusers, name).from_config(
        pipe.scheduler.config, flow_shift=pipe.scheduler.config.shift, **options
    )
    assert sampler.sigmas[2] > 0.75  # shifted from 0.6
    expected = call(pipe, scheduler, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images_of(sampler), expected)


@each_family
def test_a_seed_does_not_depend_on_its_batch(family):
    sampler = make(pipeline(family))
    batch, _ = finish(sampler, begin(sampler, seeds=range(8)))
    images = sampler.decode(batch.latents).astype(int)
    for seed in (0, 7):
        alone, _ = finish(sampler, begin(sampler, seeds=[seed]))
        assert np.abs(sampler.decode(alone.latents)[0] - images[seed]).max() <= 1
    assert np.abs(images[0] - images[7]).mean() > 5


@each_family
def test_the_last_estimate_is_the_final_image(family):
    sampler = make(pipeline(family))
    final, estimates = finish(sampler, begin(sampler))
    assert len(estimates) == sampler.steps
    np.testing.assert_array_equal(sampler.decode(estimates[-1]), sampler.decode(final.latents))
    distances = [(e - final.latents).norm().item() for e in estimates]
    assert distances[-2] < distances[0]


@pytest.mark.parametrize("family", FLOW)
def test_estimates_of_the_flow(family):
    """x0 = x - sigma v, which a jump to sigma 0 in place of the step would give."""
    sampler = make(pipeline(family))
    assert (np.diff(sampler.sigmas) < 0).all()
    assert 0 < sampler.sigmas[-1] < sampler.sigmas[0] <= 1
    state = begin(sampler)
    while not state.done:
        timestep = state.scheduler.timesteps[state.index]
        flow = sampler.denoise(state.latents, timestep, state.prompts)
        expected = state.latents - float(sampler.sigmas[state.index]) * flow
        assert float(timestep) == pytest.approx(1000 * sampler.sigmas[state.index], abs=1)
        state, estimate = sampler.step(state)
        torch.testing.assert_close(estimate, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [name for name in IMAGES if name != "edm"])
def test_latents_of_an_image_can_be_previewed(family):
    sampler = make(pipeline(family), size=64)
    latents = sampler.noise([1, 2])
    assert sampler.unpack(latents).shape[1:] == sampler.latent_size()
    sampler.previewer = LinearPreview.unfitted(sampler)
    assert sampler.preview(latents).shape == (2, 64, 32, 3)


@each_family
def test_survivors_keep_their_pixels(family):
    sampler = make(pipeline(family), steps=7)
    state = begin(sampler, seeds=range(6))
    everyone, _ = finish(sampler, state)
    for kept in ([4, 0, 3, 1], [2, 0]):
        for _ in range(2):
            state, _ = advance(sampler, state)
        state = sampler.select(state, kept)
        assert len(state) == len(kept) == len(state.prompts)
    survivors, _ = finish(sampler, state)
    # 3 and 4 were kept in the places that the second choice takes.
    expected = sampler.decode(everyone.latents)[[3, 4]].astype(int)
    assert np.abs(sampler.decode(survivors.latents) - expected).max() <= 1


@each_family
def test_batches_can_be_joined_on_the_way(family):
    sampler = make(pipeline(family))
    expected, _ = finish(sampler, begin(sampler, seeds=range(5)))
    parts = [begin(sampler, seeds=seeds) for seeds in ([0, 1], [2, 3], [4])]
    for _ in range(2):
        parts = [advance(sampler, part)[0] for part in parts]
    joined, _ = finish(sampler, sampler.concat(parts))
    torch.testing.assert_close(joined.latents, expected.latents, rtol=1e-4, atol=1e-4)


@each_family
def test_an_old_state_can_be_stepped_again(family):
    sampler = make(pipeline(family))
    trail = [begin(sampler)]
    while not trail[-1].done:
        trail.append(advance(sampler, trail[-1])[0])
    again, _ = finish(sampler, trail[1])
    assert torch.equal(again.latents, trail[-1].latents)


@each_family
def test_the_prompt_of_a_row_matters(family):
    """Otherwise a wrong row of the conditioning would pass the other tests."""
    sampler = make(pipeline(family))
    state = sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 1], [0, 1])
    final, _ = finish(sampler, state)
    assert (final.latents[0] - final.latents[1]).abs().max() > 0.05


@pytest.mark.parametrize("family", GUIDED)
def test_negative_prompts_matter_with_guidance(family):
    guided, free = make(pipeline(family)), make(pipeline(family), 0.0)
    others = ["vase", "q"]
    assert not np.array_equal(images_of(guided), images_of(guided, others))
    np.testing.assert_array_equal(images_of(free), images_of(free, others))
    assert guided.costs()["denoise"] == pytest.approx(2 * free.costs()["denoise"])
    assert guided.costs()["decode"] == free.costs()["decode"] > 0


@each_family
def test_the_pipeline_is_left_as_it_is(family):
    pipe = tiny(family)
    before, timesteps = pipe.scheduler, pipe.scheduler.timesteps
    images_of(make(pipe))
    assert pipe.scheduler is before
    assert pipe.scheduler.timesteps is timesteps


@each_family
def test_a_folder_gives_the_model_that_was_saved(family, tmp_path: Path):
    pipe = tiny(family, tmp_path)
    sampling = sampling_of(pipe, steps=3)
    loaded = load_sampler(Model(family=family, path=str(tmp_path)), sampling, Runtime())
    assert type(loaded) is type(from_pipeline(pipe, sampling))
    np.testing.assert_array_equal(images_of(loaded), images_of(from_pipeline(pipe, sampling)))
    other = "flux" if family == "sdxl" else "sdxl"
    with pytest.raises(UserError, match=f"is a {type(pipe).__name__}, not a"):
        load_sampler(Model(family=other, path=str(tmp_path)), sampling, Runtime())


@pytest.mark.parametrize(
    ("family", "multiple"),
    [
        ("stable-diffusion", 8),
        ("sdxl", 8),
        ("flux", 8),
        ("stable-diffusion-3", 8),
        ("pixart-sigma", 8),
        ("sana", 32),
        ("sana-sprint", 32),
        ("z-image", 8),
        ("flux2", 8),
        ("flux2-klein", 8),
        ("qwen-image", 8),
        ("chroma", 8),
        ("ltx", 32),
        ("wan", 16),
    ],
)
def test_impossible_sizes(family, multiple):
    with pytest.raises(UserError, match=f"multiples of {multiple}, not 36x32"):
        make(pipeline(family), size=36)


@each_family
def test_schedulers_of_the_other_kind_are_refused(family):
    flow = family in FLOW
    name = "EulerDiscreteScheduler" if flow else "FlowMatchEulerDiscreteScheduler"
    problem = "no scheduler for a flow-matching model" if flow else "flow-matching models only"
    options = {"use_flow_sigmas": False} if flow and family == "sana" else {}
    with pytest.raises(UserError, match=problem):
        make(pipeline(family), name=name)
    if options:
        with pytest.raises(UserError, match=problem):
            make(pipeline(family), **options)


def test_the_shift_of_the_model_is_kept_by_its_other_schedulers():
    pipe = pipeline("sana")
    sampler = make(pipe, name="FlowMatchEulerDiscreteScheduler")
    assert sampler.sigmas[2] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5), abs=0.005)


@pytest.mark.parametrize(
    ("family", "tokens"),
    [
        ("flux", 512),
        ("pixart-sigma", 300),
        ("z-image", 512 - len("Xuser\nX\nXassistant\n")),
        ("flux2-klein", 512 - len("Xuser\nX\nXassistant\n")),
        ("qwen-image", 512 - len(QWEN_TEMPLATE) + 34),
        ("chroma", 512),
        ("ltx", 128),
        ("wan", 512),
    ],
)
def test_long_prompts_are_cut_off_with_one_warning(family, tokens, caplog):
    sampler = make(pipeline(family))
    with caplog.at_level(logging.WARNING, logger="ttsnap"):
        sampler.encode(["r" * (tokens - 2)], [""])
        assert not caplog.records
        sampler.encode(["r" * (tokens + 1)], [""])
        sampler.encode(["r" * (tokens + 1)], [""])
    assert len(caplog.records) == 1
    assert f"{tokens} tokens" in caplog.text
