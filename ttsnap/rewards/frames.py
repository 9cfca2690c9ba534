"""Candidates that are videos: scored by some of their frames, shown by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.rewards.scores import scores_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.rewards.base import Reward


def score_frames(
    reward: Reward, candidates: NDArray[np.uint8], prompts: Sequence[str], count: int
) -> NDArray[np.float32]:
    """Score images, or videos by the mean over some of their frames.

    Args:
        reward: of images.
        candidates: images (B, H, W, 3), or videos (B, F, H, W, 3).
        prompts: B texts.
        count: frames of a video that are scored, evenly spaced from the first to the last; no more
            than there are, and for one the middle.

    Returns:
        (B,), NaN where a frame could not be scored.

    Raises:
        UserError: the reward returned something else than scores.
    """
    if candidates.ndim == 4:
        return scores_of(reward, candidates, prompts)
    chosen = candidates[:, sampled(candidates.shape[1], count)]
    texts = [prompt for prompt in prompts for _ in range(chosen.shape[1])]
    scores = scores_of(reward, chosen.reshape(-1, *chosen.shape[2:]), texts)
    return scores.reshape(chosen.shape[:2]).mean(axis=1)


def sampled(frames: int, count: int) -> NDArray[np.int64]:
    """Indices of ``count`` frames out of ``frames``, see :func:`score_frames`."""
    if count == 1:
        return np.array([frames // 2])
    return np.unique(np.linspace(0, frames - 1, count).round().astype(np.int64))


def still(candidate: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture that stands for a candidate: itself (H, W, 3), or the middle of (F, H, W, 3)."""
    return candidate if candidate.ndim == 3 else candidate[len(candidate) // 2]
