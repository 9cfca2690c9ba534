"""Sampling: stock diffusers pipelines driven step by step.

Knows prompts, seeds and latents, and nothing of rewards or searches. Importing this package
imports neither torch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ttsnap import config
from ttsnap.diffusion.families import SAMPLERS, VIDEOS
from ttsnap.errors import UserError
from ttsnap.store.videos import check_writer

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler

__all__ = [
    "SAMPLERS",
    "VIDEOS",
    "family_of",
    "from_pipeline",
    "load_sampler",
    "sampler_class",
]


def load_sampler(
    model: config.Model, sampling: config.Sampling | Mapping[str, Any], runtime: config.Runtime
) -> Sampler:
    """Load a model from a local folder or file or, at a pinned revision, from the hub.

    Args:
        model: which.
        sampling: all of it; or what differs from what the pipeline does if its call is told
            nothing.
        runtime: on which device, and how memory is saved there.

    Raises:
        UserError: the model, the device, a value or the scheduler cannot be had as asked.
    """
    from ttsnap.diffusion.compiling import batch_sizes
    from ttsnap.diffusion.devices import autocast_on
    from ttsnap.diffusion.loading import load_pipeline, load_preview
    from ttsnap.diffusion.sources import with_family

    model = with_family(model)
    family = SAMPLERS[model.family]
    if family.videos:
        check_writer()
    if model.preview is not None and not family.previews:
        raise UserError(f"model.preview: there are no previews for {model.family}")
    kind = sampler_class(model.family)
    pipe = load_pipeline(kind.pipeline(), model, runtime)
    sampler = kind(pipe, _whole(kind, pipe, sampling))
    sampler.autocast = autocast_on(sampler.device, model.autocast, sampler.denoiser.dtype)
    if runtime.compile:
        sampler.batch_sizes = batch_sizes(runtime.batch_size)
    # Offloaded pipelines move their text encoders themselves.
    sampler.release_text_encoders = runtime.release_text_encoders and runtime.offload == "none"
    # What is decoded would push the denoiser off the device.
    sampler.decodes_aside = runtime.offload == "none"
    if model.preview is not None and not model.linear_preview:
        sampler.previewer = load_preview(model.preview, pipe)
    return sampler


def from_pipeline(pipe: Any, sampling: config.Sampling | Mapping[str, Any]) -> Sampler:
    """A sampler over a diffusers pipeline that is already loaded; ``pipe`` is left as it is.

    Args:
        pipe: of any family.
        sampling: as of :func:`load_sampler`.

    Raises:
        UserError: no family drives pipelines of this class, a value or the scheduler is not
            possible, or the denoiser keeps features from step to step.
    """
    kind = sampler_class(family_of(pipe))
    for name in ("transformer", "transformer_2"):
        if getattr(getattr(pipe, name, None), "is_cache_enabled", False):
            raise UserError(
                f"{name}: it keeps features of the batch before, which pruning cuts; call its "
                "disable_cache() first"
            )
    return kind(pipe, _whole(kind, pipe, sampling))


def _whole(
    kind: type[Sampler], pipe: Any, sampling: config.Sampling | Mapping[str, Any]
) -> config.Sampling:
    if isinstance(sampling, config.Sampling):
        return sampling
    try:
        return config.Sampling.model_validate({**kind.defaults(pipe).model_dump(), **sampling})
    except ValidationError as error:
        raise UserError(config.explain(error.errors()[0], config.Sampling)) from None


def family_of(pipe: Any) -> str:
    """The family that drives a diffusers pipeline.

    Raises:
        UserError: there is none for pipelines of this class.
    """
    for name, family in SAMPLERS.items():
        if type(pipe).__name__ == family.pipeline:
            return name
    raise UserError(
        f"{type(pipe).__name__}: no sampler for this pipeline, only for {', '.join(SAMPLERS)}"
    )


def sampler_class(family: str) -> type[Sampler]:
    """The class of one of ``SAMPLERS``."""
    kind: type[Sampler] = SAMPLERS[family].load()
    return kind
