"""How a pipeline samples if its call is told nothing."""

from __future__ import annotations

import inspect
from typing import Any

from ttsnap import config
from ttsnap.diffusion.schedulers import evaluations


def defaults_of(pipe: Any, guidance: str = "guidance_scale", **known: Any) -> config.Sampling:
    """What a diffusers pipeline's own signature, configs and scheduler say.

    Its scheduler is named without options, since those of the model's own hold where no others are
    given. Steps are denoiser evaluations, of which Heun's and PNDM's schedulers make more than
    the call's steps. A size is that of the model's latents, if its configs have one: what a call
    resizes pictures to afterwards is no matter of the model.

    Args:
        pipe: of any family.
        guidance: what its call names the scale.
        known: what the family knows better, by its name in :class:`~ttsnap.config.Sampling`.
    """
    call = {
        name: parameter.default
        for name, parameter in inspect.signature(pipe.__call__).parameters.items()
    }
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    latents = getattr(pipe, "default_sample_size", None) or denoiser.config.get("sample_size")
    height, width = call["height"], call["width"]
    if latents is not None:
        sizes = (latents, latents) if isinstance(latents, int) else latents
        height, width = (size * pipe.vae_scale_factor for size in sizes)
    said = {
        "steps": evaluations(pipe.scheduler, call["num_inference_steps"]),
        "guidance_scale": call[guidance],
        "height": height,
        "width": width,
        "frames": call.get("num_frames", 1),
        "scheduler": config.Scheduler(name=type(pipe.scheduler).__name__),
    }
    return config.Sampling(**(said | known))
