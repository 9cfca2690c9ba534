"""Noise that can be drawn again: from the seed it starts at and the seeds of moves away from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ttsnap.prompts import seed_of

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ttsnap.diffusion.sampler import Conditioning, Sampler

Recipe = tuple[int, ...]
"""Seed of standard normal noise, then the seed of each move away from it; none is no noise."""

Move = Callable[["torch.Tensor", "torch.Tensor", int], "torch.Tensor"]
"""Takes noise, the standard normal noise of the move's seed (both float32 of the latents' shape),
and that seed; gives the noise it leads to."""

CACHED = 128  # noises of a search that are not drawn twice


def sphere(cosine: float) -> Move:
    """A move on the sphere of all noise of the same norm (arXiv 2501.09732, section 4.1).

    Args:
        cosine: between the noise and where the move leads.
    """

    def move(noise: torch.Tensor, drawn: torch.Tensor, seed: int) -> torch.Tensor:
        norm = noise.norm()
        unit = noise / norm
        across = drawn - (drawn * unit).sum() * unit
        return norm * (cosine * unit + (1 - cosine**2) ** 0.5 * across / across.norm())

    return move


def ball(distance: float) -> Move:
    """A move by a random share of a distance, in a random direction (arXiv 2506.03164).

    Args:
        distance: the largest, in units of sqrt(C h w), the typical norm of the noise.
    """

    def move(noise: torch.Tensor, drawn: torch.Tensor, seed: int) -> torch.Tensor:
        share = seed_of(seed, "distance", 0) / 2**63
        return noise + distance * noise.numel() ** 0.5 * share * drawn / drawn.norm()

    return move


def mixture(share: float) -> Move:
    """A move to noise of the same variance, with a share of another (arXiv 2505.17618).

    Args:
        share: β of sqrt(1 − β²) noise + β another noise.
    """

    def move(noise: torch.Tensor, drawn: torch.Tensor, seed: int) -> torch.Tensor:
        return (1 - share**2) ** 0.5 * noise + share * drawn

    return move


class NoiseSource:
    """Draws the noise of recipes."""

    def __init__(self, sampler: Sampler, move: Move | None = None) -> None:
        self._sampler, self._move = sampler, move
        self._cached = lru_cache(CACHED)(self._draw)

    def __call__(self, recipes: Sequence[Recipe]) -> torch.Tensor:
        """Noise (B, *latent_shape) of B recipes; of a recipe, it is always the same."""
        import torch

        return torch.stack([self._build(recipe) for recipe in recipes])

    def _build(self, recipe: Recipe) -> torch.Tensor:
        for end in range(1, len(recipe)):  # from the start, lest a long one recurses deeply
            self._cached(recipe[:end])
        return self._cached(recipe)

    def _draw(self, recipe: Recipe) -> torch.Tensor:
        if not recipe:
            return self._sampler.noise([0])[0] * 0
        *before, seed = recipe
        drawn = self._sampler.noise([seed])[0]
        if not before:
            return drawn
        assert self._move is not None
        moved = self._move(self._cached(tuple(before)).float(), drawn.float(), seed)
        return moved.to(drawn.dtype)


def reproduce(
    sampler: Sampler,
    conditioning: Conditioning,
    noises: Sequence[Recipe],
    move: Move | None,
    reference: int | None = None,
) -> np.ndarray:
    """The final image of a candidate, from what its search recorded.

    Args:
        sampler: as the search had it.
        conditioning: the encoded prompt, its only row.
        noises: of the candidate.
        move: of the options of the method that found it.
        reference: of the candidate.

    Returns:
        uint8 (H, W, 3), or a video (F, H, W, 3).
    """
    draw = NoiseSource(sampler, move)
    if reference is None:
        state = sampler.start_from(conditioning, draw(noises[:1]))
    else:
        state = sampler.start(conditioning, noises[0], references=[reference])
    while not state.done:
        step = state.index + 1
        noise = draw(noises[step : step + 1]) if sampler.stochastic else None
        state, _ = sampler.step(state, noise)
    image: np.ndarray = sampler.decode(state.latents)[0]
    return image
