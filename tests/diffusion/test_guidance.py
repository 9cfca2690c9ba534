"""What guidance takes beside its scale, as the call of each pipeline has it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.sampling import NEGATIVES, STEPS, begin, call, finish, images_of, make, sampling_of
from tests.tiny_families import tiny
from ttsnap.config import Model
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.architectures import Architecture, model_tflops
from ttsnap.diffusion.flops import tflops
from ttsnap.diffusion.guidance import limited, rescaled
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError


@cache
def pipeline(family: str) -> Any:
    return tiny(family)


def sampler_with(family: str, **options: float) -> Sampler:
    pipe = pipeline(family)
    return from_pipeline(pipe, sampling_of(pipe).model_copy(update={"guidance_options": options}))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("stable-diffusion", {"guidance_rescale": 0.7}),
        ("sdxl", {"guidance_rescale": 0.7}),
        ("ltx", {"guidance_rescale": 0.7}),
        ("z-image", {"cfg_normalization": 0.9}),
        ("z-image", {"cfg_truncation": 0.3}),
        ("flux", {"true_cfg_scale": 3.0}),
    ],
)
def test_equals_the_pipeline_exactly(family, options):
    sampler = sampler_with(family, **options)
    images = images_of(sampler)
    given = {"negative_prompt": [*NEGATIVES]} if family == "flux" else {}
    expected = call(pipeline(family), latents=sampler.noise([1, 2]), **given, **options)
    np.testing.assert_array_equal(images, expected)
    assert not np.array_equal(images, images_of(make(pipeline(family))))
    final, _ = finish(sampler, begin(sampler, seeds=range(3)))
    alone, _ = finish(sampler, begin(sampler, seeds=[2]))
    torch.testing.assert_close(alone.latents[0], final.latents[2], rtol=1e-4, atol=1e-4)


def test_options_that_a_pipeline_does_not_have():
    with pytest.raises(UserError, match="FluxPipeline has no guidance_rescale, only true_cfg_sc"):
        sampler_with("flux", guidance_rescale=0.7)
    with pytest.raises(UserError, match="ChromaPipeline has no true_cfg_scale, none"):
        sampler_with("chroma", true_cfg_scale=2.0)


def test_evaluations_without_guidance_cost_one_pass():
    sampler = sampler_with("z-image", cfg_truncation=0.3)
    (_, guided), (_, free) = sampler.stages
    assert guided + free == STEPS
    assert guided > 0 < free
    state, seen = begin(sampler, seeds=[1]), []
    while not state.done:
        seen.append(tflops(lambda now=state: sampler.evaluate(now)))
        state, _ = sampler.step(state)
    assert seen[guided - 1] == pytest.approx(2 * seen[guided])
    whole = make(pipeline("z-image")).costs()["denoise"]
    assert sampler.costs()["denoise"] == pytest.approx(whole * (guided + free / 2) / STEPS)


def test_true_guidance_costs_a_second_pass(tmp_path: Path):
    options = {"true_cfg_scale": 3.0}
    tiny("flux", tmp_path)
    architecture = Architecture.of(Model(path=str(tmp_path)))
    counted = model_tflops(architecture, 32, 32, 4.0, guidance_options=options)
    assert counted["denoise"] == pytest.approx(sampler_with("flux", **options).costs()["denoise"])
    assert counted["denoise"] == 2 * model_tflops(architecture, 32, 32, 4.0)["denoise"]


def test_deviation_and_norm():
    positive, guided = torch.randn(2, 3, 4, 4), 3 * torch.randn(2, 3, 4, 4)
    same = rescaled(guided, positive, 1.0)
    torch.testing.assert_close(same.flatten(1).std(1), positive.flatten(1).std(1))
    torch.testing.assert_close(rescaled(guided, positive, 0.0), guided)
    norms = limited(guided, positive, 1.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, 1.5 * positive.flatten(1).norm(dim=1))
    torch.testing.assert_close(limited(guided, positive, 100.0), guided)
