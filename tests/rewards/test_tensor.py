from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_clip import SIZE, clip_reward, tiny_clip
from ttsnap.prompts import Prompt
from ttsnap.rewards.tensor import score_step
from ttsnap.store.trajectories import create_store, open_store


@pytest.mark.parametrize("batch_size", [1, 7])
def test_every_image_is_scored_in_its_place(tmp_path: Path, batch_size: int) -> None:
    prompts = [Prompt(f"p{i}", text, "", i) for i, text in enumerate(["one", "two", "three"])]
    create_store(
        tmp_path / "val.zarr",
        prompts=prompts,
        seeds=np.arange(6).reshape(3, 2),
        steps=[1, 4],
        sigmas=np.array([1, 0]),
        height=SIZE,
        width=SIZE,
        block=3,
        settings={},
    )
    store = open_store(tmp_path / "val.zarr")
    shape = (2, 3, 2, SIZE, SIZE, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    store.write_block(0, lambda position: images[position])
    reward = clip_reward(tiny_clip(tmp_path / "clip"))
    scores = score_step(reward, store, 1, batch_size)
    for i, prompt in enumerate(prompts):
        for j in range(2):
            expected = reward.score(images[0, i, j][None], [prompt.text])[0]
            assert scores[i, j] == pytest.approx(expected, abs=1e-5)
