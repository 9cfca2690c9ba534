"""Samplers of the same pipeline that sample otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ttsnap.diffusion import schedulers

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler

logger = logging.getLogger(__name__)


def noisy(sampler: Sampler) -> Sampler:
    """One whose steps add noise, without NegToMe, which has no such steps."""
    if sampler.negtome is not None:
        logger.warning("negative token merging is left out, for steps add noise of their own")
    given, wanted = sampler.sampling.scheduler, sampler.stochastic_scheduler
    return _twin(sampler, scheduler=schedulers.in_place_of(given, wanted), negtome=None)


def drafter(sampler: Sampler, steps: int, guided: bool) -> Sampler:
    """One for cheap drafts, without NegToMe.

    Args:
        sampler: draws what they are drafts of.
        steps: of a draft.
        guided: whether it pays for classifier-free guidance, where ``sampler`` does.
    """
    changed: dict[str, Any] = {"steps": steps, "negtome": None}
    if sampler.guided and not guided:
        changed |= {"guidance_scale": sampler.guided_above, "guidance_options": {}}
    return _twin(sampler, **changed)


def share(drafter: Sampler, sampler: Sampler) -> float:
    """Evaluations of a sampler that one of its drafts' counts as: less than 1 without guidance."""
    return (1 + drafter.guided) / (1 + sampler.guided)


def _twin(sampler: Sampler, **changed: Any) -> Sampler:
    twin = type(sampler)(sampler.pipe, sampler.sampling.model_copy(update=changed))
    twin.autocast, twin.batch_sizes = sampler.autocast, sampler.batch_sizes
    twin.previewer, twin.decodes_aside = sampler.previewer, sampler.decodes_aside
    twin.release_text_encoders = sampler.release_text_encoders
    return twin
