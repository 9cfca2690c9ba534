"""Switches of memory and speed, preview decoders, and batches that find their size."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.sampling import begin, images_of
from tests.tiny_families import tiny
from ttsnap.config import Config, Model, Preview, Runtime, Sampling, Scheduler
from ttsnap.diffusion import load_sampler
from ttsnap.diffusion.backoff import Backoff
from ttsnap.diffusion.flops import tflops
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny FLUX.1-dev."""
    path = tmp_path_factory.mktemp("flux")
    tiny("flux", path)
    return path


@pytest.fixture(scope="module")
def preview(tmp_path_factory) -> Path:
    """A tiny TAESD for its latents."""
    path = tmp_path_factory.mktemp("preview")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
        ).save_pretrained(path)
    return path


def load(folder: Path, device: str = "cpu", **settings: Any) -> Sampler:
    scheduler = Scheduler(name="FlowMatchEulerDiscreteScheduler")
    sampling = Sampling(steps=3, height=64, width=64, scheduler=scheduler)
    model = {name: settings.pop(name) for name in ("preview", "vae_tiling") if name in settings}
    runtime = Runtime(device=device, **settings)
    return load_sampler(Model(family="flux", path=str(folder), **model), sampling, runtime)


def test_switches_that_change_nothing_but_memory(folder):
    expected = images_of(load(folder))
    sampler = load(folder, release_text_encoders=True, attention="native")
    np.testing.assert_array_equal(images_of(sampler), expected)
    sliced = load(folder, vae_slicing=True)
    assert sliced.pipe.vae.use_slicing
    assert np.abs(images_of(sliced).astype(int) - expected).max() <= 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_tiling_and_compilation_are_set(folder):
    plain, tiled = load(folder), load(folder, vae_tiling=True, compile=True)
    assert tiled.pipe.vae.use_tiling
    assert tiled.denoiser._compiled_call_impl is not None
    assert plain.denoiser._compiled_call_impl is None
    latents = plain.noise([1])
    difference = plain.decode(latents).astype(int) - tiled.decode(latents)
    assert np.abs(difference).max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "telepathy"}, r"runtime\.attention: telepathy: .*must be one of"),
        ({"offload": "model"}, r"runtime\.offload: model needs a GPU"),
        ({"offload": "group"}, r"runtime\.offload: group needs a GPU"),
    ],
)
def test_switches_that_cannot_be_had(folder, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        load(folder, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    "settings",
    [
        {"offload": "model"},
        {"offload": "group"},
        {"offload": "sequential"},
        {"release_text_encoders": True},
    ],
)
def test_what_waits_in_main_memory(folder, settings):
    sampler = load(folder, "cuda", **settings)
    assert sampler.device.type == "cuda"
    expected = images_of(load(folder, "cuda")).astype(int)
    assert np.abs(images_of(sampler) - expected).max() <= 1
    assert sampler.pipe.text_encoder_2.device.type != "cuda"


def test_a_preview_is_decoded_by_the_tiny_autoencoder(folder, preview):
    sampler = load(folder, preview=Preview(path=str(preview)))
    _, estimate = sampler.step(begin(sampler))
    images = sampler.preview(estimate)
    assert images.dtype == np.uint8
    assert images.shape == sampler.decode(estimate).shape == (3, 64, 64, 3)
    tiny_vae = diffusers.AutoencoderTiny.from_pretrained(preview)
    with torch.inference_mode():
        decoded = tiny_vae.decode(sampler.unpack(estimate)).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images, (expected * 255).round().astype(np.uint8))
    costs = sampler.costs()
    with torch.inference_mode():
        counted = tflops(lambda: tiny_vae.decode(sampler.unpack(estimate[:1])))
    assert costs["preview"] == pytest.approx(counted)
    assert costs["preview"] < costs["decode"]


def test_without_a_preview_decoder_there_is_no_preview(folder):
    sampler = load(folder)
    latents = sampler.noise([1])
    np.testing.assert_array_equal(sampler.preview(latents), sampler.decode(latents))
    assert set(sampler.costs()) == {"denoise", "decode"}


def test_previews_that_do_not_fit(folder, preview, tmp_path):
    with pytest.raises(UserError, match=r"model\.preview\.path: .* is neither a folder nor"):
        load(folder, preview=Preview(path="nowhere"))
    with pytest.raises(UserError, match=r"model\.preview\.path: cannot load"):
        load(folder, preview=Preview(path=str(tmp_path)))
    diffusers.AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="decodes 16 channels, not the 4 of the model"):
        load(folder, preview=Preview(path=str(tmp_path / "other")))
    with pytest.raises(ValidationError, match="must be the commit of org/taesd"):
        Config(model=Model(preview=Preview(path="org/taesd")))


def needs(limit: int, tried: list[int]):
    """A function of candidates that runs out of memory with more than ``limit`` of them."""

    def run(part: range) -> list[int]:
        tried.append(len(part))
        if len(part) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\ndetails")
        return list(part)

    return run


def test_batches_back_off_until_they_fit(caplog):
    tried: list[int] = []
    backoff = Backoff(16)
    with caplog.at_level(logging.WARNING, logger="ttsnap"):
        parts = backoff.map(needs(5, tried), 21)
    assert [i for part in parts for i in part] == list(range(21))
    assert tried == [16, 8, 4, 4, 4, 4, 4, 1]
    assert [record.message for record in caplog.records] == [
        "out of memory with a batch of 16: trying 8",
        "out of memory with a batch of 8: trying 4",
    ]
    tried.clear()
    backoff.map(needs(5, tried), 8)
    assert tried == [4, 4]


def test_a_candidate_that_does_not_fit():
    with pytest.raises(UserError, match=r"single candidate .*2 GiB.*runtime\.offload") as caught:
        Backoff(4).map(needs(0, []), 4)
    assert "\n" not in str(caught.value)
    assert Backoff(4).map(needs(9, []), 0) == []
