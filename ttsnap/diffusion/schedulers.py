"""diffusers schedulers as values: made from the config, copied, and cut down to survivors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch

from ttsnap import config
from ttsnap.errors import UserError

SCHEDULERS = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def make_scheduler(
    settings: config.Scheduler, model_config: dict[str, Any], steps: int, device: torch.device
) -> tuple[Any, float]:
    """The scheduler of the config with its timesteps set, and the eta of DDIM (0 for any other).

    Args:
        settings: class name and options. ``eta`` (Song et al., Denoising Diffusion Implicit
            Models, eq. 16) is an option of DDIM beside the constructor's own.
        model_config: configuration of the model's own scheduler, which the options override.
        steps: denoiser evaluations. A scheduler with two a step is given about half as many
            steps, so that step indices count evaluations with every scheduler.
        device: where the timesteps are kept.

    Raises:
        UserError: the class is not one of ``SCHEDULERS``, an option is not known or not
            possible, or the scheduler cannot make exactly this number of evaluations.
    """
    where = f"sampling.scheduler: {settings.name}"
    if settings.name not in SCHEDULERS:
        raise UserError(f"{where} is not supported, choose one of {', '.join(SCHEDULERS)}")
    scheduler_class = getattr(diffusers, settings.name)
    options = dict(settings.options)
    eta = options.pop("eta", 0.0) if settings.name == "DDIMScheduler" else 0.0
    if not isinstance(eta, int | float) or not 0 <= eta <= 1:
        raise UserError(f"{where}: eta must be a number in [0, 1], not {eta!r}")
    if unknown := set(options) - set(inspect.signature(scheduler_class.__init__).parameters):
        raise UserError(f"{where} has no option {', '.join(sorted(unknown))}")

    # Latents have no bounds to clip to; diffusers' own pipelines insist on this, too.
    base = {"clip_sample": False, **model_config}
    try:
        scheduler = scheduler_class.from_config(base, **options)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{where}: {error}") from error
    _set_evaluations(scheduler, steps, device)
    if scheduler.config.prediction_type not in PREDICTION_TYPES:
        raise UserError(f"{where}: prediction_type must be one of {', '.join(PREDICTION_TYPES)}")
    if is_stochastic(scheduler, eta) and not _takes_noise(scheduler):
        raise UserError(
            f"{where} draws its own noise with these options; only DDIMScheduler and "
            "DPMSolverMultistepScheduler can be given it"
        )
    return scheduler, float(eta)


def _set_evaluations(scheduler: Any, steps: int, device: torch.device) -> None:
    """Set as many steps as take ``steps`` denoiser evaluations."""
    name = type(scheduler).__name__
    problem = f"sampling.steps: {name} cannot make exactly {steps} denoiser evaluations"
    try:
        for count in range(steps, 0, -1):
            scheduler.set_timesteps(count, device=device)
            if len(scheduler.timesteps) <= steps:
                break
    except ValueError as error:
        raise UserError(problem) from error
    if len(scheduler.timesteps) != steps:
        raise UserError(problem)


def is_stochastic(scheduler: Any, eta: float) -> bool:
    """Whether a step adds fresh noise."""
    return eta > 0 or scheduler.config.get("algorithm_type", "").startswith("sde")


def _takes_noise(scheduler: Any) -> bool:
    return "variance_noise" in inspect.signature(scheduler.step).parameters


def noise_levels(scheduler: Any) -> np.ndarray:
    """float32 (S,): sigma / alpha of the latents that enter each step, falling."""
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas[: len(scheduler.timesteps)]
    else:
        alphas = scheduler.alphas_cumprod[scheduler.timesteps.cpu()]
        sigmas = ((1 - alphas) / alphas).sqrt()
    return sigmas.numpy().astype(np.float32)


def tweedie(
    model_input: torch.Tensor, output: torch.Tensor, sigma: float, prediction_type: str
) -> torch.Tensor:
    """The Tweedie estimate x0 from what a denoiser was given and what it answered, float32.

    Every denoiser of these families sees x = alpha x0 + s eps with alpha^2 + s^2 = 1 and
    sigma = s / alpha, also where the scheduler itself keeps x0 + sigma eps. It answers with eps,
    with v = alpha eps - s x0 (Salimans and Ho, Progressive Distillation, appendix D), or with x0.

    Args:
        model_input: scaled noisy latents (B, C, h, w).
        output: denoiser output after guidance, of the same shape.
    """
    alpha = 1 / (sigma**2 + 1) ** 0.5
    x, output = model_input.float(), output.float()
    if prediction_type == "epsilon":
        return x / alpha - sigma * output
    if prediction_type == "v_prediction":
        return alpha * x - sigma * alpha * output
    return output


def fork(scheduler: Any) -> Any:
    """A copy that can be stepped on its own.

    Schedulers replace their tensors and change only their lists in place, so tables are shared.
    """
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, list):
            setattr(twin, name, list(value))
    return twin


def select(scheduler: Any, indices: torch.Tensor, shape: torch.Size) -> Any:
    """A copy whose history is that of some candidates only.

    Args:
        indices: candidates to keep (K,).
        shape: shape of the latents; history tensors are those that share it.
    """

    def chosen(value: Any) -> Any:
        return value[indices] if isinstance(value, torch.Tensor) and value.shape == shape else value

    twin = fork(scheduler)
    for name, value in vars(twin).items():
        kept = [chosen(item) for item in value] if isinstance(value, list) else chosen(value)
        setattr(twin, name, kept)
    return twin


def concat(schedulers: Sequence[Any], shapes: Sequence[torch.Size]) -> Any:
    """A copy whose history is that of the candidates of all ``schedulers``, at the same step.

    Args:
        schedulers: each with the history of its candidates.
        shapes: shape of the latents of each; history tensors are those that share it.
    """

    def joined(values: Sequence[Any]) -> Any:
        first = values[0]
        historic = isinstance(first, torch.Tensor) and first.shape == shapes[0]
        return torch.cat(list(values)) if historic else first

    twin = fork(schedulers[0])
    for name, value in vars(twin).items():
        all_values = [vars(scheduler)[name] for scheduler in schedulers]
        whole = (
            [joined(items) for items in zip(*all_values, strict=True)]
            if isinstance(value, list)
            else joined(all_values)
        )
        setattr(twin, name, whole)
    return twin
