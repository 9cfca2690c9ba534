"""The example of docs/adding-a-model.md, run."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers

from tests.sampling import NEGATIVES, TEXTS, begin, call, finish, images_of, make
from tests.tiny_families import tiny_autoencoder, tiny_t5
from ttsnap.config.generate import SCHEMA_JSON
from ttsnap.diffusion import SAMPLERS
from ttsnap.diffusion.families import Family

PAGE = (Path(__file__).parents[2] / "docs/adding-a-model.md").read_text(encoding="utf-8")


def tiny_aura_flow() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, _ = tiny_t5()
        encoder = transformers.UMT5EncoderModel(
            transformers.UMT5Config(
                vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2
            )
        )
        transformer = diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=64,
        )
        pipe = diffusers.AuraFlowPipeline(
            tokenizer,
            encoder.eval(),
            tiny_autoencoder().eval(),
            transformer.eval(),
            diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(monkeypatch, tmp_path) -> Any:
    """A pipeline whose family is there as the page says."""
    source, line = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (family,) = eval("{" + line + "}", {"Family": Family}).values()
    name = family.module
    path = tmp_path / "aura_flow.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(SAMPLERS, "aura-flow", family)
    return tiny_aura_flow()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_equals_the_pipeline(pipe, guidance_scale):
    sampler = make(pipe, guidance_scale)
    images = images_of(sampler)
    assert images.std() > 5
    expected = call(pipe, guidance_scale=guidance_scale, latents=sampler.noise([1, 2]))
    np.testing.assert_array_equal(images, expected)


def test_survivors_and_the_last_estimate(pipe):
    sampler = make(pipe)
    everyone, estimates = finish(sampler, begin(sampler))
    assert torch.equal(estimates[-1], everyone.latents)
    survivors, _ = finish(sampler, sampler.select(sampler.step(begin(sampler))[0], [2]))
    torch.testing.assert_close(survivors.latents, everyone.latents[[2]], rtol=1e-4, atol=1e-4)
    guided = sampler.encode(TEXTS, NEGATIVES).tensors
    assert not torch.equal(guided["prompt"], guided["negative"])


def test_the_table_has_every_family():
    families = re.findall(r"^\| `([a-z0-9-]+)` \| `(\w+Pipeline)`", PAGE, re.MULTILINE)
    assert [family for family, _ in families] == list(SAMPLERS)
    model = json.loads(SCHEMA_JSON.read_text())["$defs"]["Model"]["properties"]
    assert model["family"]["enum"] == list(SAMPLERS)
