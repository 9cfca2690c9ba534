"""Models that all searches here are made with."""

from __future__ import annotations

import pytest

from tests.searches import STEPS, Models
from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import clip_reward, tiny_clip
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import from_pipeline


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    pipe = tiny_stable_diffusion()
    schedulers = [Scheduler(), Scheduler(name="DDIMScheduler", options={"eta": 1.0})]
    samplers = [
        from_pipeline(pipe, Sampling(steps=STEPS, guidance_scale=1.0, scheduler=scheduler))
        for scheduler in schedulers
    ]
    folder = tmp_path_factory.mktemp("clip")
    rewards = [clip_reward(tiny_clip(folder / str(seed), seed)) for seed in (4, 0, 1)]
    for index, reward in enumerate(rewards):
        reward.name = f"clip{index}"
    return Models(*samplers, rewards)
