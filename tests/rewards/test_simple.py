"""Rewards without a model."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ttsnap.config import RewardSettings
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward


def load(kind: str, **options: object) -> Reward:
    return load_reward(RewardSettings(kind=kind, options=options), name=kind)


def test_brightness_is_the_mean_luma() -> None:
    reward = load("brightness")
    images = np.zeros((5, 6, 4, 3), np.uint8)
    images[1] = 255
    for channel in range(3):
        images[2 + channel, :3, :, channel] = 255
    scores = reward.score(images, [""] * 5)
    np.testing.assert_allclose(scores, [0, 1, 0.1063, 0.3576, 0.0361], atol=1e-6)
    assert scores.dtype == np.float32
    assert reward.tflops(512, 512) == 6 * 512 * 512 / 1e12


def test_compressibility_is_the_share_that_jpeg_saves() -> None:
    rng = np.random.default_rng(0)
    images = np.stack(
        [
            np.full((64, 64, 3), 90, np.uint8),
            np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8),
            rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        ]
    )
    sizes = []
    for image in images:
        Image.fromarray(image).save(file := BytesIO(), "JPEG", quality=80)
        sizes.append(len(file.getvalue()))
    given = load("compressibility", max_bytes=3000).score(images, [""] * 3)
    np.testing.assert_allclose(given, np.maximum(1 - np.array(sizes) / 3000, 0), atol=1e-6)
    assert given[0] > given[1] > given[2] == 0
    scaled = load("compressibility").score(images, [""] * 3)
    most = 150_000 / 64
    np.testing.assert_allclose(scaled, np.maximum(1 - np.array(sizes) / most, 0), atol=1e-6)
    assert load("compressibility").tflops(64, 64) == 0


@pytest.mark.parametrize("kind", ["brightness", "compressibility"])
def test_scores_do_not_depend_on_the_batch(kind: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3), dtype=np.uint8)
    reward = load(kind)
    alone = [reward.score(images[i : i + 1], [""])[0] for i in range(9)]
    np.testing.assert_array_equal(reward.score(images, [""] * 9), alone)
