"""Matrix products in less than float32: which kinds can, and what is lost of agreement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from benchmarks.precision import emulate
from tests.narf import test_kinds as kinds
from tests.rewards.test_clip import pictures
from tests.tiny_clip import tiny_clip
from ttsnap.config import RewardSettings
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.shapes.world import render, sample_scene

CLIP = Path(__file__).parents[2] / "ttsnap/shapes/weights/clip"
PROMPTS, PICTURES = 16, 24


def clip(folder: Path) -> RewardSettings:
    return RewardSettings(path=str(tiny_clip(folder)))


@pytest.mark.parametrize(
    "make",
    [clip, kinds.siglip, kinds.hpsv2, kinds.aesthetic, kinds.image_reward, kinds.classifier],
)
def test_every_network_can(make: Callable[[Path], RewardSettings], tmp_path: Path) -> None:
    settings = make(tmp_path)
    images, prompts = pictures(4, 40, 32), ["a tench", "a tench", "a cat", "a cat"]
    exact = load_reward(settings, name="a").score(images, prompts)

    def at(precision: str) -> tuple[np.ndarray, set[str], torch.Tensor]:
        """Scores, what the network computed in, and the gradient of what NARF trains."""
        options = settings.options | {"precision": precision}
        reward = load_trainable_reward(settings.model_copy(update={"options": options}), name="a")
        seen = set()
        for module in reward.module.modules():
            module.register_forward_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda *given: seen.add(str(given[2].dtype)))
        scores = reward.score(images, prompts)
        pixels = reward.pixel_values(images).requires_grad_()
        found = reward.forward(pixels, reward.encode_texts(prompts))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.detach(), scores, rtol=1e-4)
        (slope,) = torch.autograd.grad(found.sum(), pixels)
        return scores, seen, slope

    before = torch.get_float32_matmul_precision()
    scores, seen, slope = at("tf32")
    assert "high" in seen
    assert torch.get_float32_matmul_precision() == before == "highest"
    np.testing.assert_allclose(scores, exact, rtol=1e-5)  # a CPU has no TF32
    rough, seen, rough_slope = at("bfloat16")
    assert "torch.bfloat16" in seen
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.3 * exact.std())
    assert torch.cosine_similarity(rough_slope.flatten(), slope.flatten(), 0) > 0.4


def test_agreement_of_the_embedded_reward() -> None:
    """Kendall τ with float32 over pictures of a prompt: what docs/rewards.md says."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(PROMPTS)]
    images = [render([sample_scene(rng) for _ in range(PICTURES)], rng) for _ in scenes]
    reward = load_reward(RewardSettings(path=str(CLIP)), name="a")

    def scored() -> np.ndarray:
        rows = zip(images, scenes, strict=True)
        return np.array([reward.score(some, [one.caption] * PICTURES) for some, one in rows])

    def agreement(scores: np.ndarray) -> float:
        pairs = zip(scores, exact, strict=True)
        return float(np.mean([kendalltau(*pair).statistic for pair in pairs]))

    exact = scored()
    reward.precision = "bfloat16"
    assert agreement(scored()) > 0.98
    reward.precision = "float32"
    emulate(reward)
    assert 0.999 < agreement(scored()) <= 1
    assert not np.array_equal(scored(), exact)
