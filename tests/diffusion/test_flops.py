from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from tests.tiny import tiny_stable_diffusion
from ttsnap.config import Sampling
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.flops import seconds, tflops


def test_linear_layer():
    layer = nn.Linear(8, 5)
    assert tflops(lambda: layer(torch.randn(2, 7, 8))) == pytest.approx(2 * 2 * 7 * 8 * 5 / 1e12)


def test_convolution():
    layer = nn.Conv2d(3, 6, kernel_size=5, stride=2, padding=2)
    counted = 2 * (6 * 8 * 8) * (3 * 5 * 5) / 1e12
    assert tflops(lambda: layer(torch.randn(1, 3, 16, 16))) == pytest.approx(counted)


def test_attention():
    query, key = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 10, 8)
    counted = 2 * 2 * (2 * 4) * (16 * 10 * 8) / 1e12

    def attend() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, key)

    assert tflops(attend) == pytest.approx(counted)


def test_costs_are_those_of_the_modules():
    pipe = tiny_stable_diffusion()
    free = from_pipeline(pipe, Sampling(steps=2, guidance_scale=1)).costs()
    guided = from_pipeline(pipe, Sampling(steps=2, guidance_scale=3)).costs()
    assert guided["denoise"] == pytest.approx(2 * free["denoise"])
    assert guided["decode"] == free["decode"] > 0
    unet, latents, text = pipe.unet, torch.randn(5, 4, 8, 8), torch.randn(5, 16, 32)
    five = tflops(lambda: unet(latents, 1, encoder_hidden_states=text))
    assert five == pytest.approx(5 * free["denoise"])


def test_seconds_are_the_median_of_those_after_the_first():
    naps = iter([0.3, 0.01, 0.01, 0.05, 0.01, 0.2])
    assert 0.01 <= seconds(lambda: time.sleep(next(naps))) < 0.05


def test_seconds_of_a_candidate_are_its_share_of_the_batch():
    sampler = from_pipeline(tiny_stable_diffusion(), Sampling(steps=2))
    assert set(sampler.costs(seconds, batch=3)) == {"denoise", "decode"}
    five = sampler.costs(lambda call: [call(), 5.0][1], batch=5)
    assert five == {"denoise": 1.0, "decode": 1.0}
