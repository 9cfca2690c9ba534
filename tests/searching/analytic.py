"""A world of one number, a mixture of normal distributions, where all that is sought is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tests.searches import Function
from tests.tiny import tiny_stable_diffusion
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion.families.stable_diffusion import StableDiffusionSampler
from ttsnap.prompts import Prompt
from ttsnap.schedule import CostModel
from ttsnap.searching import SearchResult
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods import MethodOptions
from ttsnap.searching.searcher import Searcher

RANGE = 8.0  # a number in [-RANGE, RANGE] is a pixel of 24 bits
LEVELS = 2**24 - 1


@dataclass(frozen=True)
class Mixture:
    """Normal distributions of one deviation.

    Attributes:
        weights: (K,), summing to 1.
        means: (K,).
        deviation: of each.
    """

    weights: np.ndarray
    means: np.ndarray
    deviation: float

    @property
    def mean(self) -> float:
        return float(self.weights @ self.means)

    def tilted(self, slope: float) -> Mixture:
        """The density times exp(slope x), normalised: a mixture again."""
        logs = slope * self.means + (slope * self.deviation) ** 2 / 2
        weights = self.weights * np.exp(logs - logs.max())
        return Mixture(
            weights / weights.sum(), self.means + slope * self.deviation**2, self.deviation
        )

    def denoised(self, noisy: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """E[x0 | sqrt(α) x0 + sqrt(1 − α) ε], the optimal denoiser."""
        means = torch.as_tensor(self.means, dtype=torch.float64)
        variance = alpha * self.deviation**2 + 1 - alpha
        away = noisy[..., None].double() - alpha.sqrt() * means
        logs = torch.as_tensor(np.log(self.weights)) - away**2 / (2 * variance)
        each = means + alpha.sqrt() * self.deviation**2 / variance * away
        return (logs.softmax(dim=-1) * each).sum(dim=-1)


WORLD = Mixture(np.array([0.6, 0.3, 0.1]), np.array([-2.0, 0.5, 2.5]), 0.4)


class AnalyticSampler(StableDiffusionSampler):
    """The real sampler and scheduler, with the optimal denoiser of ``WORLD`` as their model."""

    def latent_size(self) -> tuple[int, ...]:
        return (1, 1, 1)

    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        alpha = self._scheduler.alphas_cumprod[int(timestep)].double()
        clean = WORLD.denoised(model_input, alpha)
        noise = (model_input - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return (alpha.sqrt() * noise - (1 - alpha).sqrt() * clean).to(model_input.dtype)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        shares = (latents.double().flatten() / RANGE + 1).clamp(0, 2) / 2
        whole = (shares * LEVELS).round().numpy().astype(np.uint32)
        pixels = np.stack([whole >> 16, whole >> 8, whole], axis=-1) & 255
        return pixels.astype(np.uint8)[:, None, None]


def number_of(images: np.ndarray) -> np.ndarray:
    """The numbers (n,) that images (n, 1, 1, 3) are."""
    parts = images[:, 0, 0].astype(np.uint32)
    whole = (parts[:, 0] << 16) + (parts[:, 1] << 8) + parts[:, 2]
    return (whole / LEVELS * 2 - 1) * RANGE


def world(steps: int) -> Searcher:
    """What searches it, by the number itself as reward; an evaluation is all that costs."""
    options: dict[str, Any] = {"eta": 1.0, "timestep_spacing": "trailing"}
    scheduler = Scheduler(name="DDIMScheduler", options=options)
    sampling = Sampling(steps=steps, guidance_scale=1.0, scheduler=scheduler)
    sampler = AnalyticSampler(tiny_stable_diffusion(), sampling)
    costs = CostModel(denoise=1, decode=0, reward=0, steps=steps, unit="NFE")
    return Searcher(sampler, [Function(number_of, "number")], costs=costs, batch_size=4096)


def expected(
    searcher: Searcher, slope: float, function: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Mean of a function of what the sampler draws, its density times exp(slope x).

    The sampler is a Markov chain of one number, x' = m(x) + s ε with m and s its scheduler's; its
    densities are added up over a fine grid, so that its steps may be few.
    """
    sampler = searcher.sampler
    grid = torch.linspace(-RANGE, RANGE, 1001, dtype=torch.float64)
    state = sampler.start_from(sampler.encode(["a number"], [""]), torch.zeros(1, 1, 1, 1))
    density = torch.exp(-(grid**2) / 2)
    while True:
        points = grid.reshape(-1, 1, 1, 1).to(state.latents.dtype)
        state = replace(state, latents=points, rows=(0,) * len(grid), output=None)
        following, _ = sampler.step(state, torch.zeros_like(points))
        means = following.latents.flatten().double()
        if following.done:
            break
        moved, _ = sampler.step(state, torch.ones_like(points))
        deviation = (moved.latents.flatten().double() - means).mean()
        kernel = torch.exp(-(((grid[:, None] - means) / deviation) ** 2) / 2)
        density = kernel @ density / density.sum()
        state = following
    numbers = means.numpy()
    weights = density.numpy() * np.exp(slope * numbers)
    return float((weights * function(numbers)).sum() / weights.sum())


def search(
    searcher: Searcher, name: str, options: MethodOptions, runs: int, seed: int
) -> SearchResult:
    """Search for as much as so many whole trajectories cost."""
    budget = Budget(runs * searcher.sampler.steps, "NFE")
    return searcher.run(Prompt("p", "a number", "", 0), name, options, budget=budget, seed=seed)


def finals(result: SearchResult) -> tuple[np.ndarray, np.ndarray]:
    """Final numbers (n,) of a search, and their weights."""
    finished: Sequence[Any] = [one for one in result.candidates if one.rewards]
    numbers = np.array([one.rewards["number"] for one in finished])
    return numbers, np.array([one.weight or 0.0 for one in finished])
