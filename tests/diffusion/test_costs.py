"""Prices are counted without running anything, and timed in what memory allows."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from tests.sampling import images_of, make, tiny_previewer
from tests.tiny_families import TINY, tiny
from ttsnap.config import NegToMe
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.costs import copied
from ttsnap.diffusion.flops import seconds, tflops

FULL_WAN = """
import json, resource
import diffusers, torch
from tests.tiny_families import tiny_umt5, wan
from ttsnap.config import load_config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.architectures import ARCHITECTURES, _build

with torch.device("meta"):
    published = ARCHITECTURES["wan-1.3b"]
    transformer, vae = _build(published.denoiser), _build(published.vae)
tokenizer, encoder = tiny_umt5(4096)
settings = load_config("config/wan.yaml")
pipe = diffusers.WanPipeline(
    tokenizer=tokenizer,
    text_encoder=encoder.eval(),
    transformer=transformer.to(torch.bfloat16),
    vae=vae,
    scheduler=wan().scheduler,
)
pipe.vae.enable_tiling()
costs = from_pipeline(pipe, settings.sampling).costs()
print(json.dumps(costs | {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("family", TINY)
def test_shapes_cost_what_runs(family):
    """The same matrix products as those that the very modules are seen to run."""
    sampler = make(tiny(family))
    if family in ("sdxl", "flux"):
        sampler.previewer = tiny_previewer(sampler)
    conditioning = sampler.priced_text()
    state = sampler.start(conditioning, [1])
    counted = sampler.costs()
    assert counted["denoise"] == tflops(lambda: sampler.evaluate(state)) > 0
    assert counted["decode"] == tflops(lambda: sampler.decode(state.latents))
    if sampler.previewer is not None:
        assert counted["preview"] == tflops(lambda: sampler.preview(state.latents)) > 0


def test_counting_after_decoding_is_the_same():
    """SDXL in half precision keeps a copy of its autoencoder from its first decode on."""
    sampler = make(tiny("sdxl").to(torch.float16), 1.0)
    before = sampler.costs()
    sampler.decode(sampler.noise([1]))
    assert sampler.costs() == before


def test_counting_leaves_the_model_as_it_is():
    pipe = tiny("sdxl")
    negtome = NegToMe(where="up", min_width=2, t_end=500.0)
    settings = make(pipe).sampling.model_copy(update={"negtome": negtome})
    sampler = from_pipeline(pipe, settings)
    before = images_of(sampler)
    networks = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    sampler.costs()
    assert {name: pipe.components[name] for name in networks} == networks
    for network in networks.values():
        assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert not any(module._forward_hooks for module in pipe.unet.modules())
    np.testing.assert_array_equal(images_of(sampler), before)


def test_attention_is_counted_in_little_memory():
    """4096 tokens in 8 heads: all pairs of them would take 512 MiB in float32."""
    code = """
import resource, torch
from ttsnap.diffusion.costs import copied
from ttsnap.diffusion.flops import tflops
query = torch.zeros(1, 8, 4096, 64)
attend = torch.nn.functional.scaled_dot_product_attention
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counted = tflops(lambda: attend(query, query, query))
assert abs(counted * 1e12 - 2 * 2 * 8 * 4096**2 * 64) < 1, counted
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""
    assert float(output_of(code)) < 128


@pytest.mark.slow
def test_wan_at_full_size_is_priced_in_less_than_2_gb():
    """The model of config/wan.yaml, but for its weights and its text encoder."""
    found = json.loads(output_of(FULL_WAN))
    assert found["rss"] < 2
    assert found["denoise"] == pytest.approx(566, rel=1e-3)
    assert found["decode"] > 275


def with_room_for(sampler: Any, most: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Let a sampler run out of memory above ``most`` candidates; gives what was tried."""
    tried = []

    def limited(latents: torch.Tensor, *others: Any, run: Any = sampler.denoise) -> torch.Tensor:
        tried.append(len(latents))
        if len(latents) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return run(latents, *others)

    patch.setattr(sampler, "denoise", limited)
    return tried


def test_a_batch_that_does_not_fit_is_timed_in_halves(monkeypatch):
    sampler = make(tiny("sdxl"))
    tried = with_room_for(sampler, 2, monkeypatch)
    counts = iter([6.0, 10.0])
    prices = sampler.costs(lambda call: [call(), next(counts)][1], batch=8)
    assert tried == [8, 4, 2]
    assert prices == {"denoise": 3.0, "decode": 5.0}
    assert sampler.costs(seconds, 8)["denoise"] > 0


def test_a_group_that_does_not_fit_is_timed_in_halves(monkeypatch):
    negtome = NegToMe(where="up", min_width=2, t_end=500.0, group=8)
    settings = make(tiny("sdxl")).sampling.model_copy(update={"negtome": negtome})
    sampler = from_pipeline(tiny("sdxl"), settings)
    tried = with_room_for(sampler, 3, monkeypatch)
    counts = iter([6.0, 10.0, 9.0, 7.0])
    prices = sampler.costs(lambda call: [call(), next(counts)][1])
    assert tried == [1, 8, 4, 2, 2]  # one candidate; a group, of which two fit, with and without
    added = (9 - 7) * len(sampler.coupled) / sampler.steps  # to the one that is pushed
    assert prices["denoise"] == pytest.approx(6 + added * 7 / 8)


def test_a_copy_runs_without_the_offloading_of_its_model():
    """What a GPU is needed for in use, hooks that move weights, is put on by hand here."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).double()
    module[0].scale = torch.ones(2)  # neither a parameter nor a buffer
    add_hook_to_module(module[0], ModelHook())
    twin = copied(module, lambda tensor: tensor.to(torch.float32))
    assert twin[0].weight.dtype == twin[0].scale.dtype == torch.float32
    assert module[0].weight.dtype == torch.float64
    assert not hasattr(twin[0], "_hf_hook")
    assert hasattr(module[0], "_hf_hook")
    given = torch.randn(4, 3)
    torch.testing.assert_close(twin(given), module(given.double()).float())
