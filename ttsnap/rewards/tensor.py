"""Rewards of what a trajectory store holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ttsnap.progress import track
from ttsnap.rewards.base import Reward
from ttsnap.rewards.scores import scores_of
from ttsnap.store.files import atomic
from ttsnap.store.trajectories import TrajectoryStore

if TYPE_CHECKING:
    from ttsnap.diffusion.linear_preview import LinearPreview

IMAGES_PER_JOB = 1_000_000
"""Images that one job scores, of all steps together; a split with more is shared by several."""


def blocks_per_job(prompts: int, images: int, steps: int) -> int:
    """Blocks of a store that one job scores, each of prompts x images x steps images."""
    return max(1, IMAGES_PER_JOB // (prompts * images * steps))


def score_step(
    reward: Reward,
    store: TrajectoryStore,
    step: int,
    batch_size: int = 64,
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
    (scores,) = _score(reward, store, step, [range(len(store))], batch_size)
    return scores


def score_steps(
    load: Callable[[int], Reward],
    store: TrajectoryStore,
    steps: Sequence[int],
    blocks: range,
    parts: Path,
    batch_size: int = 64,
    preview: LinearPreview | None = None,
) -> NDArray[np.float32]:
    """Score some blocks at several steps, one step after the other, and resume.

    What is finished, a block at a step, is a file in ``parts`` that is there whole or not at all.
    A call that was killed is taken up by the next one with the same folder.

    Args:
        load: gives the reward of a step index; asked only if there is something to score by it.
        store: with these blocks generated.
        steps: step indices, of those stored.
        blocks: numbers of the blocks.
        parts: folder of scores by these very rewards.
        batch_size: as of :func:`score_step`.
        preview: shows the estimates in place of their decodes; final images are decoded.

    Returns:
        (prompt of these blocks, image, step) float32.

    Raises:
        UserError: as :func:`score_step`.
    """

    names = {block: f"block_{block:04d}_{store.stamp(block)}" for block in blocks}

    def part(step: int, block: int) -> Path:
        return parts / f"{names[block]}_step_{step:02d}.npy"

    for step in steps:
        missing = [block for block in blocks if not part(step, block).is_file()]
        if missing:
            prompts = [store.block_prompts(block) for block in missing]
            seen = None if step == store.final else preview
            found = _score(load(step), store, step, prompts, batch_size, seen)
            for block, scores in zip(missing, found, strict=True):
                with atomic(part(step, block)) as file:
                    np.save(file, scores)
    by_step = [np.concatenate([np.load(part(step, block)) for block in blocks]) for step in steps]
    return np.stack(by_step, axis=-1)


def _score(
    reward: Reward,
    store: TrajectoryStore,
    step: int,
    ranges: Sequence[range],
    batch_size: int,
    preview: LinearPreview | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Scores (prompt, image) of each range of prompts; a batch lies within one of them."""
    count = store.images_per_prompt
    together = max(1, batch_size // count)
    batches = [
        (number, prompts[start : start + together])
        for number, prompts in enumerate(ranges)
        for start in range(0, len(prompts), together)
    ]
    tracked = track(batches, f"{reward.name}, step {step}, batches")
    for _, some in groupby(tracked, itemgetter(0)):
        rows = []
        for _, prompts in some:
            where = slice(prompts.start, prompts.stop)
            if preview is None:
                images = store.images(where, step)
            else:
                images = preview.images(store.latents_of(where, step))
            texts = [store.prompts[prompt].text for prompt in prompts for _ in range(count)]
            scores = scores_of(reward, images.reshape(-1, *images.shape[2:]), texts)
            rows.append(scores.reshape(-1, count))
        yield np.concatenate(rows)
