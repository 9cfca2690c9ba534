"""What a search on loaded models is charged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import SIZE, tiny_clip
from ttsnap.config import Costs, RewardSettings, Sampling
from ttsnap.diffusion import from_pipeline
from ttsnap.pricing import cost_model, measure
from ttsnap.rewards import load_reward


@pytest.fixture
def models(tmp_path: Path):
    tiny_clip(tmp_path)
    sampling = Sampling(steps=2, height=SIZE, width=SIZE)
    reward = load_reward(RewardSettings(path=str(tmp_path)), name="clip")
    return from_pipeline(tiny_stable_diffusion(), sampling), reward, sampling


def test_what_is_not_given_is_counted(models) -> None:
    counted = measure("TFLOPs", *models, 4)
    assert min(counted.values()) > 0
    costs = cost_model(Costs(denoise=9.0), *models, 4)
    assert (costs.denoise, costs.decode, costs.reward) == (9, counted["decode"], counted["score"])
    assert (costs.steps, costs.unit) == (2, "TFLOPs")


def test_seconds_are_taken_of_a_batch(models) -> None:
    costs = cost_model(Costs(unit="seconds", rewards={"clip": 0.0}), *models, 4)
    assert costs.unit == "seconds"
    assert 0 < costs.denoise < 5
    assert costs.reward == 0
