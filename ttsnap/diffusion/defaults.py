"""How a pipeline samples if its call is told nothing."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

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


def few_steps_of(scheduler: Any, embedded: bool) -> dict[str, Any]:
    """Steps and guidance of a U-Net that was distilled, as its own scheduler says; else nothing.

    Consistency models (LCM, arXiv 2310.04378; TCD, arXiv 2402.19159) take 4 steps. Adversarially
    distilled ones (SD-Turbo, SDXL-Turbo, arXiv 2311.17042) take one: of the published models that
    predict noise, theirs are the schedulers with trailing timesteps.

    Args:
        scheduler: diffusers' own, as it came with the model.
        embedded: whether the guidance scale is an input of the U-Net, which is then kept.
    """
    if isinstance(scheduler, (diffusers.LCMScheduler, diffusers.TCDScheduler)):
        return {"steps": 4} if embedded else {"steps": 4, "guidance_scale": 1.0}
    options = scheduler.config
    trailing = options.get("timestep_spacing") == "trailing"
    if trailing and options.get("prediction_type") == "epsilon":
        return {"steps": 1, "guidance_scale": 0.0}
    return {}
