"""What an evaluation, a decode, a preview and a score cost, where no price is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.config import Costs
from ttsnap.schedule import CostModel

if TYPE_CHECKING:
    from ttsnap.config import Config
    from ttsnap.diffusion.sampler import Sampler
    from ttsnap.rewards import Reward


def measure(unit: str, sampler: Sampler, reward: Reward, batch: int) -> dict[str, float]:
    """Prices of one candidate: ``denoise``, ``decode``, ``score``, and ``preview`` if checks do so.

    Args:
        unit: TFLOPs, counted; or seconds, taken on the sampler's device.
        sampler: draws the images.
        reward: scores them.
        batch: candidates that run together, or as many as memory allows; seconds are their share.
    """
    prices = measured_sampling(unit, sampler, batch)
    return prices | {"score": measured_score(unit, sampler, reward, batch)}


def measured_sampling(unit: str, sampler: Sampler, batch: int) -> dict[str, float]:
    """What :func:`measure` says, but for the score."""
    if unit == "TFLOPs":
        return sampler.costs()
    from ttsnap.diffusion.flops import seconds

    return sampler.costs(seconds, batch)


def measured_score(unit: str, sampler: Sampler, reward: Reward, batch: int) -> float:
    """What :func:`measure` says of the score."""
    height, width, frames = sampler.height, sampler.width, sampler.scored_frames
    if unit == "TFLOPs":
        return frames * reward.tflops(height, width)
    from ttsnap.diffusion.backoff import Backoff
    from ttsnap.diffusion.flops import seconds

    def timed(some: range) -> float:
        count = len(some) * frames
        images = np.zeros((count, height, width, 3), np.uint8)
        return seconds(lambda: reward.score(images, [""] * count)) / len(some)

    return Backoff(batch).largest(timed, batch)


def cost_model(
    unit: str, costs: Costs, sampler: Sampler, rewards: Sequence[Reward], batch: int
) -> CostModel:
    """Prices in ``unit``, in which an image is scored by all ``rewards``.

    Args:
        unit: of the budget. NFE counts evaluations of the denoiser and nothing else.
        costs: prices that are known, in their own unit; the others are measured.
        sampler: draws the images.
        rewards: score them.
        batch: candidates that run together.
    """
    if unit == "NFE":
        return CostModel(1.0, 0.0, 0.0, steps=sampler.steps, unit="NFE")
    known = costs if costs.unit == unit else Costs.model_validate({"unit": unit})
    given = known.given("", preview=sampler.previewer is not None)
    del given["score"]
    prices = {part: price for part, price in given.items() if price is not None}
    if len(prices) < len(given):
        prices = measured_sampling(unit, sampler, batch) | prices
    scores = (known.rewards.get(reward.name) for reward in rewards)
    prices["score"] = sum(
        measured_score(unit, sampler, reward, batch) if score is None else score
        for reward, score in zip(rewards, scores, strict=True)
    )
    return CostModel.of(prices, steps=sampler.steps, unit=unit)


def score_tflops(config: Config, reward: str, height: int, width: int) -> float:
    """TFLOPs of scoring a candidate, an image of this size in pixels or a video, before any run.

    As given; else of a published reward that is not in a local folder as its name says, without
    its weights; else counted on the reward itself.

    Raises:
        UserError: the reward cannot be loaded.
    """
    given = config.costs.rewards.get(reward)
    if given is not None:
        return given
    from ttsnap.diffusion.architectures import REWARD_NAMES, reward_tflops
    from ttsnap.rewards import load_reward

    settings, sampling = config.rewards[reward], config.sampling
    frames = min(sampling.frames, sampling.scored_frames)
    path = Path(settings.path or "")
    if path.name in REWARD_NAMES and not path.exists():
        return frames * reward_tflops(REWARD_NAMES[path.name])
    return frames * load_reward(settings, name=reward).tflops(height, width)
