"""Rewards of what a trajectory store holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttsnap.progress import track
from ttsnap.rewards.base import Reward
from ttsnap.rewards.scores import scores_of
from ttsnap.store.trajectories import TrajectoryStore


def score_step(
    reward: Reward, store: TrajectoryStore, step: int, batch_size: int = 64
) -> NDArray[np.float32]:
    """Score every image of a step.

    Args:
        reward: base or finetuned.
        store: with all blocks generated.
        step: step index, one of those stored.
        batch_size: images read and scored at once, at the least those of one prompt.

    Returns:
        (prompt, image) float32.

    Raises:
        UserError: if the step is not stored, a block is not generated yet, or the reward returned
            something else than scores.
    """
    texts = [prompt.text for prompt in store.prompts]
    count = store.images_per_prompt
    together = max(1, batch_size // count)
    rows = []
    for start in track(range(0, len(store), together), f"{reward.name}, step {step}, prompts"):
        stop = min(start + together, len(store))
        images = store.images(slice(start, stop), step)
        prompts = [text for text in texts[start:stop] for _ in range(count)]
        scores = scores_of(reward, images.reshape(-1, *images.shape[2:]), prompts)
        rows.append(scores.reshape(-1, count))
    return np.concatenate(rows)
