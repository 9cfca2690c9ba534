"""diffusers schedulers as values: made from the config, copied, and cut down to survivors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import diffusers
import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion.loading import no_warnings
from ttsnap.diffusion.solvers import (
    GIVEN_NOISE,
    EulerAncestralDiscreteScheduler,
    FlowMatchSDEScheduler,
    LCMScheduler,
    SCMScheduler,
)
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
"""Schedulers that are deterministic, or can be; some also for flow matching, by their options."""

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction", "trigflow")

WITH_ETA = ("DDIMScheduler", "TCDScheduler")
"""Schedulers with an option ``eta``, the share of noise in a step."""

DDIM_WITH_NOISE = config.Scheduler(name="DDIMScheduler", options={"eta": 1.0})
"""Ancestral sampling, for models that predict the noise, v or the image."""

FLOW_WITH_NOISE = config.Scheduler(name="FlowMatchSDEScheduler")
"""Its like for flow matching."""

NOISE_ALONE = 1000.0
"""Noise level, sigma / alpha, above which latents tell nothing of an image; what models are trained
on ends below 100, and a schedule of zero terminal SNR starts at 4096."""


def make_scheduler(
    settings: config.Scheduler,
    model_scheduler: Any,
    steps: int,
    device: torch.device,
    timesteps: Callable[[Any], dict[str, Any]],
) -> tuple[Any, float]:
    """The scheduler of the config with its timesteps set, and its eta (0 for those without).

    Args:
        settings: class name and options. ``eta`` is an option beside the constructor's own of DDIM
            (Song et al., Denoising Diffusion Implicit Models, eq. 16) and of TCD.
        model_scheduler: the model's own scheduler, whose configuration the options override.
        steps: denoiser evaluations. A scheduler with two a step is given about half as many
            steps, so that step indices count evaluations with every scheduler.
        device: where the timesteps are kept.
        timesteps: what ``set_timesteps`` of a scheduler is given beside steps and device.

    Raises:
        UserError: the class is not known here or not for such models, an option is not known or
            not possible, or the scheduler cannot make exactly this number of evaluations, or not
            of what the model predicts.
    """
    where = f"sampling.scheduler: {settings.name}"
    classes = {name: getattr(diffusers, name) for name in SCHEDULERS}
    classes |= {scheduler.__name__: scheduler for scheduler in GIVEN_NOISE}
    if settings.name not in classes:
        raise UserError(f"{where} is not supported, choose one of {', '.join(classes)}")
    scheduler_class = classes[settings.name]
    options = dict(settings.options)
    eta = options.pop("eta", 0.0) if settings.name in WITH_ETA else 0.0
    if not isinstance(eta, int | float) or not 0 <= eta <= 1:
        raise UserError(f"{where}: eta must be a number in [0, 1], not {eta!r}")
    known = inspect.signature(scheduler_class.__init__).parameters
    if unknown := set(options) - set(known):
        raise UserError(f"{where} has no option {', '.join(sorted(unknown))}")

    # Latents have no bounds to clip to; diffusers' own pipelines insist on this, too.
    base = {"clip_sample": False} if "clip_sample" in known else {}
    base |= model_scheduler.config
    # Two names of one number: without it another solver would take other noise levels.
    for ours, theirs in (("flow_shift", "shift"), ("shift", "flow_shift")):
        if ours in known and theirs not in known and theirs in base:
            base[ours] = base[theirs]
    try:
        with no_warnings():  # of options that only the model's own scheduler has
            scheduler = scheduler_class.from_config(base, **options)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{where}: {error}") from error
    for matches, kind, choice in _KINDS:
        if matches(scheduler) != matches(model_scheduler):
            problem = (
                f"is no scheduler for {kind[0]}; choose {choice}"
                if matches(model_scheduler)
                else f"is for {kind[1]} only"
            )
            raise UserError(f"{where} {problem}")
    _set_evaluations(scheduler, steps, device, timesteps(scheduler))
    if prediction_type(scheduler) not in PREDICTION_TYPES:
        raise UserError(f"{where}: prediction_type must be one of {', '.join(PREDICTION_TYPES)}")
    if is_stochastic(scheduler, eta) and not _takes_noise(scheduler):
        raise UserError(
            f"{where} draws its own noise with these options; only DDIMScheduler, "
            "DPMSolverMultistepScheduler, "
            + ", ".join(given.__name__ for given in GIVEN_NOISE)
            + " can be given it"
        )
    eta = float(eta)
    _check_prediction(scheduler, eta, where)
    return scheduler, eta


def _check_prediction(scheduler: Any, eta: float, where: str) -> None:
    """See that a scheduler can take its first step by what the model predicts."""
    kind, highest = prediction_type(scheduler), noise_levels(scheduler)[0]
    if kind == "epsilon" and highest > NOISE_ALONE and not matches_edm(scheduler):
        raise UserError(
            f"{where}: starts at noise alone (rescale_betas_zero_snr), of which prediction_type "
            "epsilon tells no image; choose v_prediction for a model that was trained so, else "
            "rescale_betas_zero_snr false"
        )
    try:
        next(rehearse(scheduler, eta))
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"{where} cannot use what the model predicts, prediction_type {kind} ({error}); choose "
            "another scheduler"
        ) from error


def in_place_of(scheduler: config.Scheduler, stochastic: config.Scheduler) -> config.Scheduler:
    """``stochastic``, for the model that ``scheduler`` describes by those of its options it knows.

    But for steps that are spaced as ``linspace``: stock DDIM takes even ones wherever they are.
    """
    classes = {"DDIMScheduler": diffusers.DDIMScheduler} | {
        given.__name__: given for given in GIVEN_NOISE
    }
    known = inspect.signature(classes[stochastic.name].__init__).parameters
    options = {
        name: value
        for name, value in scheduler.options.items()
        if (name, value) != ("timestep_spacing", "linspace")
    }
    if "flow_shift" in options:
        options["shift"] = options["flow_shift"]
    kept = {name: value for name, value in options.items() if name in known}
    return stochastic.model_copy(update={"options": kept | stochastic.options})


def step(
    scheduler: Any,
    index: int,
    latents: torch.Tensor,
    output: torch.Tensor,
    sigma: float,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """One step, which leaves the scheduler as it was.

    Args:
        scheduler: before the step.
        index: of the step.
        latents: that enter it (B, …).
        output: what the denoiser predicts of them (B, …).
        sigma: their noise level as :func:`noise_levels` gives it.
        eta: of :func:`make_scheduler`.
        noise: standard normal (B, …), if the scheduler is stochastic.

    Returns:
        The scheduler after the step, the latents that follow, and the Tweedie estimates x0: the
        scheduler's own where it reports them.
    """
    following = fork(scheduler)
    timestep = following.timesteps[index]
    model_input = scale_model_input(following, latents, timestep)
    options: dict[str, Any] = {"eta": eta} if eta else {}
    if noise is not None:
        options["variance_noise"] = noise
    result = following.step(output, timestep, latents, **options)
    estimate = result.get("pred_original_sample", result.get("denoised"))
    if estimate is None:
        estimate = tweedie(model_input, output, sigma, prediction_type(scheduler))
    return following, result.prev_sample, estimate


def rehearse(scheduler: Any, eta: float) -> Iterator[bool]:
    """Take every step with a latent of one number; yields whether fresh noise changes what follows.

    Solvers work on each number alone, so one shows for all where noise enters.
    """
    latents = torch.full((1, 1, 1, 1), 0.7, device=scheduler.timesteps.device)
    noises = (latents, -latents) if is_stochastic(scheduler, eta) else (None,)
    for index in range(len(scheduler.timesteps)):
        outcomes = [
            step(scheduler, index, latents, 0.5 * latents, 1.0, eta, noise) for noise in noises
        ]
        scheduler, following, _ = outcomes[0]
        yield not torch.equal(following, outcomes[-1][1])


def noisy_steps(scheduler: Any, eta: float) -> tuple[int, ...]:
    """Step indices at which fresh noise has an effect on the latents that follow."""
    if not is_stochastic(scheduler, eta):
        return ()
    return tuple(index for index, noisy in enumerate(rehearse(scheduler, eta)) if noisy)


def evaluations(scheduler: Any, steps: int) -> int:
    """Denoiser evaluations that as many steps of a scheduler take."""
    if matches_flow(scheduler) or matches_circle(scheduler):
        return steps  # which may be set with the size of the picture only, and end in a 0
    twin = type(scheduler).from_config(scheduler.config)
    twin.set_timesteps(steps)
    return len(twin.timesteps)


def matches_flow(scheduler: Any) -> bool:
    """Whether latents are (1 - sigma) x0 + sigma eps and the denoiser predicts eps - x0.

    That is flow matching along straight lines (Lipman et al. 2023; Liu et al. 2023).
    """
    return "FlowMatch" in type(scheduler).__name__ or bool(_option(scheduler, "use_flow_sigmas"))


def matches_edm(scheduler: Any) -> bool:
    """Whether the denoiser is preconditioned as in EDM (Karras et al. 2022, table 1)."""
    return isinstance(scheduler, diffusers.EDMEulerScheduler)


def matches_circle(scheduler: Any) -> bool:
    """Whether latents are cos t x0 + sin t eps, as in continuous-time consistency models."""
    return isinstance(scheduler, diffusers.SCMScheduler)


_KINDS = (
    (
        matches_flow,
        ("a flow-matching model", "flow-matching models"),
        "FlowMatchEulerDiscreteScheduler, or give it the options use_flow_sigmas: true and "
        "prediction_type: flow_prediction",
    ),
    (matches_edm, ("an EDM", "EDM"), "EDMHeunScheduler"),
    (matches_circle, ("SANA-Sprint", "SANA-Sprint"), "SCMScheduler"),
)
"""Kinds of models that no other's scheduler suits: who knows them, their names, what to choose."""


def _option(scheduler: Any, name: str) -> Any:
    """One of the scheduler's own options; its configuration also carries those of other classes."""
    own = name in inspect.signature(type(scheduler).__init__).parameters
    return scheduler.config[name] if own else None


def shifted(scheduler: Any, tokens: int, steps: int | None = None) -> dict[str, Any]:
    """What a flow-matching pipeline hands ``set_timesteps`` beside the number of steps.

    Args:
        scheduler: whose configuration has the shifts of a small and of a large picture.
        tokens: of the transformer in the picture.
        steps: of a pipeline that spaces its noise levels itself, before the shift.

    Returns:
        ``mu``, if this schedule shifts with the resolution; and ``sigmas``, for such a pipeline,
        unless the scheduler was asked for noise levels of its own.
    """
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    settings = scheduler.config
    options: dict[str, Any] = {}
    if _option(scheduler, "use_dynamic_shifting"):
        defaults = {
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
            "base_shift": 0.5,
            "max_shift": 1.15,
        }
        options["mu"] = calculate_shift(tokens, *(settings.get(k, v) for k, v in defaults.items()))
    if steps is not None and not settings.get("use_flow_sigmas"):
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    return options


def initial_scale(scheduler: Any) -> Any:
    """Standard deviation of the latents before the first step, 1 in flow matching."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def scale_model_input(
    scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Latents as the denoiser expects them, which in flow matching are those that are kept."""
    if not hasattr(scheduler, "scale_model_input"):
        return latents
    return scheduler.scale_model_input(latents, timestep)


def model_input(
    scheduler: Any, index: int, latents: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Timestep of a step, and latents (B, …) as the denoiser expects them there."""
    twin = fork(scheduler)
    timestep = twin.timesteps[index]
    return timestep, scale_model_input(twin, latents, timestep)


def prediction_type(scheduler: Any) -> str:
    """What the denoiser's output stands for."""
    return _option(scheduler, "prediction_type") or "flow_prediction"


def _set_evaluations(
    scheduler: Any, steps: int, device: torch.device, options: dict[str, Any]
) -> None:
    """Set as many steps as take ``steps`` denoiser evaluations."""
    name = type(scheduler).__name__
    problem = f"sampling.steps: {name} cannot make exactly {steps} denoiser evaluations"
    try:
        for count in range(steps, 0, -1):
            scheduler.set_timesteps(count, device=device, **options)
            if len(scheduler.timesteps) <= steps:
                break
    except ValueError as error:
        raise UserError(problem) from error
    if len(scheduler.timesteps) != steps:
        raise UserError(problem)


def is_stochastic(scheduler: Any, eta: float) -> bool:
    """Whether a step adds fresh noise."""
    return (
        eta > 0
        or isinstance(
            scheduler,
            EulerAncestralDiscreteScheduler | FlowMatchSDEScheduler | LCMScheduler | SCMScheduler,
        )
        or bool(_option(scheduler, "stochastic_sampling"))
        or bool(_option(scheduler, "S_churn"))
        or (_option(scheduler, "algorithm_type") or "").startswith("sde")
    )


def _takes_noise(scheduler: Any) -> bool:
    return "variance_noise" in inspect.signature(scheduler.step).parameters


def noise_levels(scheduler: Any) -> np.ndarray:
    """float32 (S,): noise levels of the latents that enter each step, falling but for churn.

    They are sigma / alpha; for flow matching, where that is infinite at pure noise, sigma itself.
    Where another schedule starts at pure noise, that is 4096, as stock schedulers with sigmas have
    it.
    """
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas[: len(scheduler.timesteps)]
    else:
        alphas = scheduler.alphas_cumprod[scheduler.timesteps.cpu()].clamp(min=2**-24)
        sigmas = ((1 - alphas) / alphas).sqrt()
    return sigmas.cpu().numpy().astype(np.float32)


def tweedie(
    model_input: torch.Tensor, output: torch.Tensor, sigma: float, prediction_type: str
) -> torch.Tensor:
    """The Tweedie estimate x0 from what a denoiser was given and what it answered, float32.

    Every denoiser of these families sees x = alpha x0 + s eps with alpha^2 + s^2 = 1 and
    sigma = s / alpha, also where the scheduler itself keeps x0 + sigma eps. It answers with eps,
    with v = alpha eps - s x0 (Salimans and Ho, Progressive Distillation, appendix D), which is
    also called trigflow, or with x0.
    In flow matching x = (1 - sigma) x0 + sigma eps and the answer is eps - x0.

    Args:
        model_input: scaled noisy latents (B, …).
        output: denoiser output after guidance, of the same shape.
        sigma: noise level as :func:`noise_levels` gives it.
        prediction_type: one of ``PREDICTION_TYPES``.
    """
    if prediction_type == "flow_prediction":
        return model_input.float() - sigma * output.float()
    alpha = 1 / (sigma**2 + 1) ** 0.5
    x, output = model_input.float(), output.float()
    if prediction_type == "epsilon":
        return x / alpha - sigma * output
    if prediction_type in ("v_prediction", "trigflow"):
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
