"""What guidance there is beside its scale, by the names that pipelines have for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ttsnap.errors import UserError


def check_options(options: Mapping[str, float], known: Sequence[str], pipeline: str) -> None:
    """Refuse options of guidance that a pipeline does not have.

    Raises:
        UserError: there is one.
    """
    for name in options:
        if name not in known:
            which = f"only {', '.join(known)}" if known else "none"
            raise UserError(f"sampling.guidance_options: {pipeline} has no {name}, {which}")


def rescaled(guided: torch.Tensor, positive: torch.Tensor, strength: float) -> torch.Tensor:
    """A guided prediction with its deviation drawn to that of the prompt's own.

    Args:
        guided: (B, …).
        positive: what was predicted for the prompt (B, …).
        strength: phi of arXiv 2305.08891, section 3.4; at 1 the deviations are equal.
    """
    own, changed = (
        flow.std(dim=list(range(1, flow.ndim)), keepdim=True) for flow in (positive, guided)
    )
    return strength * (guided * (own / changed)) + (1 - strength) * guided


def limited(guided: torch.Tensor, positive: torch.Tensor, factor: float) -> torch.Tensor:
    """A guided prediction (B, …) of at most ``factor`` times the norm of the prompt's own."""
    own, changed = (
        torch.linalg.vector_norm(flow, dim=list(range(1, flow.ndim)), keepdim=True)
        for flow in (positive, guided)
    )
    longest = own * factor
    return torch.where(changed > longest, guided * (longest / changed), guided)
