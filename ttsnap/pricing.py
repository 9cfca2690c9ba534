"""What an evaluation, a decode, a preview and a score cost, on the very models that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ttsnap.diffusion.architectures import preview_decoder
from ttsnap.diffusion.flops import seconds, tflops
from ttsnap.diffusion.loading import no_warnings
from ttsnap.schedule import CostModel

if TYPE_CHECKING:
    from ttsnap.config import Costs, Sampling
    from ttsnap.diffusion.sampler import Sampler
    from ttsnap.rewards import Reward


def measure(
    unit: str, sampler: Sampler, reward: Reward, sampling: Sampling, batch: int
) -> dict[str, float]:
    """Prices of one candidate: ``denoise``, ``decode``, ``preview`` and ``score``.

    A family without preview decoders previews at the price of a decode.

    Args:
        unit: TFLOPs, counted; or seconds, taken on the sampler's device.
        sampler: draws the images.
        reward: scores them.
        sampling: the size of the images.
        batch: candidates that run together; seconds are their share of it.
    """
    import torch

    timed = unit == "seconds"
    price, batch = (seconds, batch) if timed else (tflops, 1)
    counted = sampler.costs(price, batch)
    counted["preview"] = counted["decode"]
    if sampler.previews:
        with no_warnings():  # of modules to be kept in float32, of which it has none
            vae = preview_decoder(sampler.pipe.vae).to(sampler.device, sampler.dtype)
        latents = torch.zeros(
            batch, *sampler.latent_shape, device=sampler.device, dtype=sampler.dtype
        )
        counted["preview"] = price(lambda: vae.decode(latents)) / batch
    height, width, frames = sampling.height, sampling.width, sampler.scored_frames
    images = np.zeros((batch * frames, height, width, 3), np.uint8)
    counted["score"] = (
        seconds(lambda: reward.score(images, [""] * len(images))) / batch
        if timed
        else frames * reward.tflops(height, width)
    )
    return counted


def cost_model(
    costs: Costs, sampler: Sampler, reward: Reward, sampling: Sampling, batch: int
) -> CostModel:
    """The prices that ``costs`` give, and those that they do not, measured."""
    given = costs.given(reward.name)
    prices = {part: given[part] for part in ("denoise", "decode", "score")}
    if None in prices.values():
        measured = measure(costs.unit, sampler, reward, sampling, batch)
        prices = {
            part: measured[part] if price is None else price for part, price in prices.items()
        }
    denoise, decode, score = (price for price in prices.values() if price is not None)
    return CostModel(denoise, decode, score, steps=sampler.steps, unit=costs.unit)
