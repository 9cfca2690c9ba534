"""Sampling: stock diffusers pipelines driven step by step.

A model family is one module with a :class:`~ttsnap.diffusion.sampler.Sampler` and one line in
``SAMPLERS``. Importing this package imports neither torch nor diffusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ttsnap.errors import UserError

if TYPE_CHECKING:
    from ttsnap import config
    from ttsnap.diffusion.sampler import Sampler

SAMPLERS = {
    "stable-diffusion": "ttsnap.diffusion.stable_diffusion:StableDiffusionSampler",
    "sdxl": "ttsnap.diffusion.sdxl:StableDiffusionXLSampler",
    "flux": "ttsnap.diffusion.flux:FluxSampler",
    "stable-diffusion-3": "ttsnap.diffusion.stable_diffusion_3:StableDiffusion3Sampler",
    "pixart-sigma": "ttsnap.diffusion.pixart:PixArtSigmaSampler",
    "sana": "ttsnap.diffusion.sana:SanaSampler",
}
"""Family -> ``module:class``."""


def load_sampler(model: config.Model, sampling: config.Sampling, device: str = "auto") -> Sampler:
    """Load a model from a local folder or, at a pinned revision, from the hub.

    ``device`` is a torch device, or ``auto`` for the first GPU if there is one.

    Raises:
        UserError: the model, the device or the scheduler cannot be had as asked.
    """
    from ttsnap.diffusion.loading import load_pipeline, load_preview

    sampler_class = _sampler_class(model.family)
    pipe = load_pipeline(sampler_class.pipeline_class, model, device)
    sampler = sampler_class(pipe, sampling)
    # Offloaded pipelines move their text encoders themselves.
    sampler.release_text_encoders = model.release_text_encoders and model.offload == "none"
    if model.preview is not None:
        sampler.previewer = load_preview(model.preview, model, pipe)
    return sampler


def from_pipeline(pipe: Any, sampling: config.Sampling) -> Sampler:
    """A sampler over a diffusers pipeline that is already loaded; ``pipe`` is left as it is.

    Raises:
        UserError: no family drives pipelines of this class, or the scheduler is not possible.
    """
    for family in SAMPLERS:
        sampler = _sampler_class(family)
        if type(pipe).__name__ == sampler.pipeline_class:
            return sampler(pipe, sampling)
    raise UserError(
        f"{type(pipe).__name__}: no sampler for this pipeline, only for {', '.join(SAMPLERS)}"
    )


def pipeline_class(family: str) -> str:
    """Name of the diffusers pipeline class of a family."""
    return _sampler_class(family).pipeline_class


def _sampler_class(family: str) -> type[Sampler]:
    module, _, name = SAMPLERS[family].partition(":")
    return getattr(import_module(module), name)
