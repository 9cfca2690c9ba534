"""Score what a store holds, and load a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.errors import UserError
from ttsnap.progress import track

if TYPE_CHECKING:
    from ttsnap.rewards.base import Reward
    from ttsnap.store import TrajectoryStore

Judge = Callable[[np.ndarray, Sequence[str]], np.ndarray]
"""Images uint8 (B, H, W, 3) and their prompts to values in [0, 1], (B,)."""


def score_step(reward: Reward, store: TrajectoryStore, step: int, batch_size: int) -> np.ndarray:
    """Rewards (prompt, image) float32 of all images of a store at a step index."""
    images = store.images_per_prompt
    together = max(1, batch_size // images)
    scores = np.empty((len(store), images), np.float32)
    firsts = range(0, len(store), together)
    for first in track(firsts, f"{reward.name}, step {step}"):
        prompts = range(first, min(first + together, len(store)))
        pictures = store.images(prompts, step)
        texts = [store.prompts[prompt].text for prompt in prompts for _ in range(images)]
        scores[first : prompts.stop] = reward.score(
            pictures.reshape(-1, *pictures.shape[2:]), texts
        ).reshape(-1, images)
    return scores


def load_judge(name: str) -> Judge:
    """The judge ``module:function``.

    Raises:
        UserError: there is none of that name.
    """
    module, _, function = name.partition(":")
    try:
        judge: Judge = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"judge {name}: expected MODULE:FUNCTION ({error})") from None
    return judge
