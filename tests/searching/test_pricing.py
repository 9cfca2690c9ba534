"""What a search on loaded models is charged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import SIZE, tiny_clip
from ttsnap.config import Costs, RewardSettings, Sampling, load_config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.architectures import reward_tflops
from ttsnap.rewards import load_reward
from ttsnap.searching.pricing import cost_model, measure, score_tflops


@pytest.fixture
def models(tmp_path: Path):
    tiny_clip(tmp_path)
    sampling = Sampling(steps=2, height=SIZE, width=SIZE)
    reward = load_reward(RewardSettings(path=str(tmp_path)), name="clip")
    return from_pipeline(tiny_stable_diffusion(), sampling), reward


def test_what_is_not_given_is_counted(models) -> None:
    counted = measure("TFLOPs", *models, 4)
    assert min(counted.values()) > 0
    sampler, reward = models
    costs = cost_model("TFLOPs", Costs(denoise=9.0), sampler, [reward], 4)
    assert (costs.denoise, costs.decode, costs.reward) == (9, counted["decode"], counted["score"])
    assert (costs.steps, costs.unit) == (2, "TFLOPs")


def test_seconds_are_taken_of_a_batch(models) -> None:
    sampler, reward = models
    given = Costs(unit="seconds", rewards={"clip": 0.0})
    costs = cost_model("seconds", given, sampler, [reward], 4)
    assert costs.unit == "seconds"
    assert 0 < costs.denoise < 5
    assert costs.reward == 0


def test_all_rewards_are_paid_for_and_evaluations_alone_cost_nothing_else(models) -> None:
    sampler, reward = models
    one, two = (cost_model("TFLOPs", Costs(), sampler, [reward] * n, 4) for n in (1, 2))
    assert two.reward == 2 * one.reward > 0
    counted = cost_model("NFE", Costs(), sampler, [reward], 4)
    assert (counted.denoise, counted.decode, counted.reward) == (1, 0, 0)


def test_seconds_are_taken_of_what_memory_holds(models, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    sampler, reward = models
    denoise = sampler.denoise

    def limited(model_input: torch.Tensor, *others):
        tried.append(len(model_input))
        if len(model_input) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return denoise(model_input, *others)

    monkeypatch.setattr(sampler, "denoise", limited)
    assert min(measure("seconds", sampler, reward, 12).values()) > 0
    assert list(dict.fromkeys(tried)) == [12, 6, 3]


def test_a_score_before_any_run(tmp_path: Path) -> None:
    """A price of nothing is one; a folder that is here is counted, whatever its name."""
    tiny_clip(tmp_path / "PickScore_v1")
    rewards = {
        "free": {"kind": "image-reward", "path": "org/ImageReward", "revision": "0" * 40},
        "small": {"kind": "clip", "path": str(tmp_path / "PickScore_v1")},
        "pic": {"kind": "clip", "path": "org/PickScore_v1", "revision": "0" * 40},
    }
    sampling = {"height": 32, "width": 32, "frames": 9, "scored_frames": 4}
    config = load_config(
        {
            "rewards": rewards,
            "costs": {"rewards": {"free": 0.0}},
            "sampling": sampling,
            "search": {"reward": "pic"},
        }
    )
    assert score_tflops(config, "free", 32, 32) == 0
    small = load_reward(config.rewards["small"], name="small")
    assert score_tflops(config, "small", 32, 32) == 4 * small.tflops(32, 32)
    assert score_tflops(config, "pic", 32, 32) == 4 * reward_tflops("PickScore")
