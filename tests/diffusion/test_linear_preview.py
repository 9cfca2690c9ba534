"""A linear preview: fitted, applied to arrays and by samplers, kept and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sampling import begin, make
from tests.tiny_families import tiny
from ttsnap.diffusion.families import SAMPLERS
from ttsnap.diffusion.linear_preview import LinearPreview, Previews
from ttsnap.errors import UserError

CHANNELS, SCALE = 4, 4
IMAGE_FAMILIES = [name for name, family in SAMPLERS.items() if family.previews]


def pictures(count: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents, pictures that a linear map makes of them but for noise, and its weights."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, CHANNELS))
    latents = rng.normal(size=(count, CHANNELS, 6, 5))
    small = 128 + 20 * np.einsum("rc,nchw->nhwr", weights, latents)
    large = small.repeat(SCALE, 1).repeat(SCALE, 2)
    large += noise * rng.normal(size=small.shape).repeat(SCALE, 1).repeat(SCALE, 2)
    return latents, large.clip(0, 255).round().astype(np.uint8), weights


def test_the_fit_finds_a_map_that_is_there() -> None:
    latents, images, weights = pictures(40, noise=0.0)
    preview, r2 = LinearPreview.fit(latents, images)
    found = preview.color.weight[:, :, 0, 0].numpy() * 127.5
    np.testing.assert_allclose(found, 20 * weights, rtol=0.06)  # pixels end at 0 and 255
    assert r2 > 0.99
    # In the middle of a flat picture nothing is smoothed.
    flat = np.full((CHANNELS, 6, 5), 0.5)
    expected = 128 + 20 * weights.sum(1) * 0.5
    np.testing.assert_allclose(preview.images(flat)[12, 10], expected, atol=2.5)


def test_how_well_it_shows_is_told_by_pictures_that_it_was_not_fitted_to() -> None:
    latents, images, _ = pictures(10, noise=0.0)
    rng = np.random.default_rng(1)
    wrong = rng.permutation(images.reshape(-1, 3)).reshape(images.shape)
    assert LinearPreview.fit(latents, images)[1] > 0.99
    assert LinearPreview.fit(latents, wrong)[1] < 0.1
    assert LinearPreview.fit(latents[:2], images[:2])[1] > 0.5  # of few, too


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_every_sampler_takes_one(family: str) -> None:
    """Also of latents that are packed; and arrays of latents give the same pictures."""
    sampler = make(tiny(family))
    sampler.previewer = LinearPreview.unfitted(sampler)
    latents = begin(sampler).latents
    shown = sampler.preview(latents)
    assert shown.shape == sampler.decode(latents).shape
    unpacked = sampler.unpack(latents)
    assert tuple(unpacked.shape[1:]) == tuple(sampler.latent_size())
    kept = unpacked.float().numpy()[:, None]  # more axes before
    np.testing.assert_array_equal(sampler.previewer.images(kept)[:, 0], shown)
    costs = sampler.costs()
    assert 0 < costs["preview"] < 0.01 * costs["decode"]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    preview, _ = LinearPreview.fit(*pictures(10, noise=1.0)[:2])
    preview.save(tmp_path / "preview.safetensors")
    again = LinearPreview.load(tmp_path / "preview.safetensors")
    latents = torch.randn(3, CHANNELS, 2, 2).numpy()
    np.testing.assert_array_equal(again.images(latents), preview.images(latents))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no linear preview here"), (b"{}", "not a linear preview")]
)
def test_what_is_none_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "preview.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        LinearPreview.load(path)


def test_previews_are_made_when_they_are_read() -> None:
    preview, _ = LinearPreview.fit(*pictures(10, noise=1.0)[:2])
    latents = np.random.default_rng(0).normal(size=(5, 2, 3, CHANNELS, 6, 5)).astype(np.float16)
    previews = Previews(latents, preview)
    assert previews.shape == (5, 2, 3, 24, 20, 3)
    np.testing.assert_array_equal(previews[3, 0:2, 1], preview.images(latents[3, :, 1]))
