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
    with no_warnings():  # of modules to be kept in float32, of which it has none
        vae = preview_decoder(sampler.pipe.vae).to(sampler.device, sampler.dtype)
    latents = torch.zeros(batch, *sampler.latent_shape, device=sampler.device, dtype=sampler.dtype)
    height, width = sampling.height, sampling.width
    images = np.zeros((batch, height, width, 3), np.uint8)
    return sampler.costs(price, batch) | {
        "preview": price(lambda: vae.decode(latents)) / batch,
        "score": seconds(lambda: reward.score(images, [""] * batch)) / batch
        if timed
        else reward.tflops(height, width),
    }


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
