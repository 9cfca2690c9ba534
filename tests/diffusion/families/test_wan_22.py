"""Wan 2.2: two transformers that share a trajectory, or one that is told each token's time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.sampling import (
    FRAMES,
    STEPS,
    begin,
    call,
    finish,
    images_of,
    make,
    sampling_of,
)
from tests.tiny_families import tiny, tiny_wan_22, tiny_wan_22_5b
from ttsnap.config import Model, NegToMe, Runtime
from ttsnap.diffusion import family_of, from_pipeline, load_sampler
from ttsnap.diffusion.architectures import Architecture, model_tflops, parameters
from ttsnap.diffusion.families.wan import WanSampler
from ttsnap.diffusion.flops import seconds, tflops
from ttsnap.diffusion.loading import one_at_a_time
from ttsnap.diffusion.sources import find_family
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods import METHODS
from ttsnap.searching.request import method_options
from ttsnap.searching.searcher import Searcher

KINDS = {"14b": tiny_wan_22, "5b": tiny_wan_22_5b}
ABOVE = 2  # of the 5 steps, whose timesteps are 999, 923, 818, 667, 429
each_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def pipeline(kind: str) -> Any:
    return KINDS[kind]()


def sampler_with(pipe: Any, **options: float) -> WanSampler:
    settings = sampling_of(pipe).model_copy(update={"guidance_options": options})
    return from_pipeline(pipe, settings)


@each_kind
@pytest.mark.parametrize("guidance_scale", [0.0, 4.0])
def test_equals_the_pipeline_exactly(kind, guidance_scale):
    pipe = pipeline(kind)
    sampler = make(pipe, guidance_scale)
    images = images_of(sampler)
    assert images.shape == (2, FRAMES, 32, 32, 3)
    assert images.std() > 5
    expected = call(pipe, guidance_scale=guidance_scale, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images, expected)


@each_kind
def test_equals_the_pipeline_in_half_precision(kind):
    pipe = KINDS[kind]().to(torch.bfloat16)
    sampler = make(pipe)
    np.testing.assert_array_equal(images_of(sampler), call(pipe, latents=sampler.noise([1, 2])))


def test_the_second_transformer_has_a_guidance_scale_of_its_own():
    pipe = pipeline("14b")
    sampler = sampler_with(pipe, guidance_scale_2=2.0)
    expected = call(pipe, guidance_scale_2=2.0, latents=sampler.noise([1, 2]))
    images = images_of(sampler)
    np.testing.assert_array_equal(images, expected)
    assert not np.array_equal(images, images_of(make(pipe)))
    with pytest.raises(UserError, match="WanPipeline has no guidance_scale_2, none"):
        sampler_with(tiny("wan"), guidance_scale_2=2.0)


def test_each_transformer_has_its_own_part_of_the_trajectory():
    sampler = make(pipeline("14b"))
    asked: list[int] = []
    handles = [
        part.register_forward_hook(lambda *_, number=number: asked.append(number))
        for number, part in enumerate((sampler.pipe.transformer, sampler.pipe.transformer_2))
    ]
    finish(sampler, begin(sampler, seeds=[1]))
    for handle in handles:
        handle.remove()
    assert asked == [0] * 2 * ABOVE + [1] * 2 * (STEPS - ABOVE)  # two passes each
    assert [steps for _, steps in sampler.stages] == [ABOVE, STEPS - ABOVE]


@each_kind
def test_what_every_sampler_promises(kind):
    """Images depend on their seed alone, survivors keep theirs, and the last estimate is one."""
    sampler = make(pipeline(kind))
    state = begin(sampler, seeds=range(6))
    everyone, estimates = finish(sampler, state)
    images = sampler.decode(everyone.latents).astype(int)
    np.testing.assert_array_equal(sampler.decode(estimates[-1]), images)
    alone, _ = finish(sampler, begin(sampler, seeds=[5]))
    assert np.abs(sampler.decode(alone.latents)[0] - images[5]).max() <= 1
    assert np.abs(images[0] - images[5]).mean() > 5
    for kept in ([4, 0, 3, 1], [2, 0]):  # the second choice is below the boundary
        for _ in range(2):
            state, _ = sampler.step(state)
        state = sampler.select(state, kept)
    survivors, _ = finish(sampler, state)
    assert np.abs(sampler.decode(survivors.latents) - images[[3, 4]]).max() <= 1


@each_kind
def test_a_folder_gives_the_model_that_was_saved(kind, tmp_path: Path):
    pipe = KINDS[kind](tmp_path)
    assert find_family(str(tmp_path)) == family_of(pipe) == "wan"
    sampling = sampling_of(pipe)
    loaded = load_sampler(Model(path=str(tmp_path)), sampling, Runtime())
    np.testing.assert_array_equal(images_of(loaded), images_of(make(pipe)))
    assert loaded.frame_rate == {"14b": 16, "5b": 24}[kind]


@each_kind
def test_configs_alone_cost_what_runs(kind, tmp_path: Path):
    pipe = KINDS[kind](tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    architecture = Architecture.of(Model(path=str(tmp_path)))
    sampler = make(pipe)
    counted = model_tflops(architecture, 32, 32, 4.0, FRAMES)
    assert sampler.costs() == pytest.approx({part: counted[part] for part in sampler.costs()})
    state = sampler.start(sampler.priced_text(), [1])
    assert counted["denoise"] == pytest.approx(tflops(lambda: sampler.evaluate(state)))
    networks = [pipe.transformer, pipe.transformer_2]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks if network]
    assert parameters(architecture)[0] == sum(sizes)


def test_an_evaluation_is_priced_with_the_transformer_that_makes_it():
    """On average over the steps, where the two are not of one shape."""
    sampler = make(tiny_wan_22(layers=5))
    state, seen = begin(sampler, seeds=[1]), []
    while not state.done:
        seen.append(tflops(lambda now=state: sampler.evaluate(now)))
        state, _ = sampler.step(state)
    assert seen[0] == seen[ABOVE - 1] < seen[ABOVE] == seen[-1]
    assert sampler.costs()["denoise"] == pytest.approx(np.mean(seen))
    assert sampler.costs(seconds)["denoise"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_two_transformers(method: str):
    sampler = make(pipeline("14b"))
    searcher = Searcher(sampler, [BrightnessReward()], batch_size=8)
    how = METHODS[method]
    options = method_options(how, {"schedule": "1:0.5"} if how.prunes else {})
    budget = Budget(3 * searcher.prices("TFLOPs").cost(1), "TFLOPs")
    found = searcher.run(Prompt("p", "red", "", 0), how, options, budget=budget, seed=1)
    assert found.spent <= found.budget * (1 + 1e-9)
    assert found.nfe >= sampler.steps
    assert found.image.std() > 0


def test_noise_at_every_step_keeps_the_boundary():
    sampler = make(pipeline("14b")).with_noise()
    assert sampler.stochastic
    assert [steps for _, steps in sampler.stages] == [ABOVE, STEPS - ABOVE]


def test_negtome_stays_above_the_boundary():
    settings = sampling_of(pipeline("14b"))
    early, late = NegToMe(min_width=2), NegToMe(min_width=2, t_end=500.0)
    sampler = from_pipeline(pipeline("14b"), settings.model_copy(update={"negtome": early}))
    assert sampler.coupled == [0, 1]
    with pytest.raises(UserError, match=r"first transformer only, so not below 875"):
        from_pipeline(pipeline("14b"), settings.model_copy(update={"negtome": late}))


def test_parts_that_are_offloaded_push_off_all_others():
    """A search goes back from the second transformer to the first, which a call never does."""
    pipe = tiny_wan_22()
    expected = images_of(make(pipe))
    pipe.enable_model_cpu_offload(device="cpu")
    one_at_a_time(pipe)
    parts = [pipe.text_encoder, pipe.transformer, pipe.transformer_2, pipe.vae]
    pushed = [[hook.model for hook in part._hf_hook.prev_module_hook.hooks] for part in parts]
    assert pushed == [[other for other in parts if other is not part] for part in parts]
    np.testing.assert_array_equal(images_of(make(pipe)), expected)
    others = pipe.vae._hf_hook.prev_module_hook
    pipe.transformer.to("meta")  # stands for a device
    assert others.model is pipe.transformer


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_transformer_at_a_time_is_on_a_gpu(tmp_path: Path):
    pipe = tiny_wan_22(tmp_path)
    runtime = Runtime(device="cuda", offload="model")
    sampler = load_sampler(Model(path=str(tmp_path)), sampling_of(pipe), runtime)
    first = begin(sampler, seeds=[1])
    last = first
    while last.index < STEPS - 1:
        last, _ = sampler.step(last)

    def on_gpu() -> list[bool]:
        parts = (sampler.pipe.transformer, sampler.pipe.transformer_2, sampler.pipe.vae)
        return [part.device.type == "cuda" for part in parts]

    assert on_gpu() == [False, True, False]
    sampler.evaluate(first)
    assert on_gpu() == [True, False, False]
    sampler.decode(first.latents)
    assert on_gpu() == [False, False, True]
    sampler.evaluate(replace(last, output=None))
    assert on_gpu() == [False, True, False]
