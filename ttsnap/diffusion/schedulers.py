"""diffusers schedulers as values: made from the config, copied, and cut down to survivors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_edm_euler import EDMEulerSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ttsnap import config
from ttsnap.diffusion.loading import no_warnings
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

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")


class EulerAncestralDiscreteScheduler(diffusers.EulerAncestralDiscreteScheduler):
    """The stock scheduler, given the noise of a step instead of a generator to draw it from."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        variance_noise: torch.Tensor,
    ) -> SchedulerOutput:
        """An Euler step down to sigma_down, and noise back up (Karras et al. 2022, algorithm 2).

        Args:
            model_output: what the denoiser predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents x0 + sigma eps (B, …).
            variance_noise: standard normal noise (B, …).
        """
        sigma, following = self.sigmas[self.step_index : self.step_index + 2]
        up = (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5
        down = (following**2 - up**2) ** 0.5
        sample = sample.float()
        if self.config.prediction_type == "epsilon":
            estimate = sample - sigma * model_output
        else:
            estimate = model_output * (-sigma / (sigma**2 + 1) ** 0.5) + sample / (sigma**2 + 1)
        noiseless = sample + (sample - estimate) / sigma * (down - sigma)
        self._step_index += 1
        return SchedulerOutput((noiseless + variance_noise * up).to(model_output.dtype))


class FlowMatchEulerDiscreteScheduler(diffusers.FlowMatchEulerDiscreteScheduler):
    """The stock scheduler, given the noise of a step with ``stochastic_sampling``."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        variance_noise: torch.Tensor | None = None,
    ) -> SchedulerOutput:
        """An Euler step, or with noise a new start from the estimate at the next noise level.

        Args:
            model_output: the flow v = eps - x0 that the denoiser predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents (1 - sigma) x0 + sigma eps (B, …).
            variance_noise: standard normal noise (B, …), if sampling is stochastic.
        """
        if variance_noise is None:
            return super().step(model_output, timestep, sample)
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma, following = self.sigmas[self.step_index : self.step_index + 2]
        estimate = sample.float() - sigma * model_output
        self._step_index += 1
        renoised = (1 - following) * estimate + following * variance_noise
        return SchedulerOutput(renoised.to(model_output.dtype))


class EDMHeunScheduler(diffusers.EDMEulerScheduler):
    """Heun's second-order method with churn (Karras et al. 2022, arXiv 2206.00364, algorithm 2).

    N steps from t_i down to t_(i+1) take 2 N - 1 denoiser evaluations: the slope where a step
    begins, and the slope where it ends, but at 0. Each is an entry of ``timesteps`` and ``sigmas``.
    Before it, step i raises its noise from t_i to t_i + gamma_i t_i. Here this is done as soon as
    t_i is reached: what the denoiser says of latents then does not depend on the noise that its
    own step is given. The first step's share is part of the initial noise.

    The schedule t_i (eq. 5) and the preconditioning (table 1) are those of the class it is made of.
    """

    sigmas: torch.Tensor

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        sigma_schedule: str = "karras",
        rho: float = 7.0,
        prediction_type: str = "epsilon",
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = float("inf"),
        S_noise: float = 1.0,
    ) -> None:
        """
        Args:
            sigma_min: noise level t_(N-1).
            sigma_max: noise level t_0.
            sigma_data: standard deviation of the training images.
            sigma_schedule: karras or exponential.
            rho: exponent of the schedule.
            prediction_type: epsilon, or v_prediction where the network's output has the other sign.
            S_churn: how much noise is added anew, over all steps; 0 is the deterministic sampler.
            S_min: lowest noise level t_i where it is.
            S_max: highest.
            S_noise: standard deviation of that noise, slightly above 1 against lost detail.

        Raises:
            ValueError: churn is negative.
        """
        if S_churn < 0:
            raise ValueError(f"S_churn must not be negative, but is {S_churn}")
        super().__init__(
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            sigma_data=sigma_data,
            sigma_schedule=sigma_schedule,
            rho=rho,
            prediction_type=prediction_type,
        )
        self.sigmas: torch.Tensor
        self._begun: list[torch.Tensor] = []

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Set the noise levels of as many steps, one per evaluation of the denoiser."""
        super().set_timesteps(num_inference_steps, device)
        options: Any = self.config
        levels = torch.as_tensor(self.sigmas)[:-1]
        churned = (levels >= options.S_min) & (levels <= options.S_max)
        gamma = min(options.S_churn / num_inference_steps, 2**0.5 - 1) * churned
        raised = levels * (1 + gamma)
        pairs = torch.stack([levels, raised], dim=1).flatten()
        self.sigmas = torch.cat([pairs[1:], levels.new_zeros(1)])
        self.timesteps = self.precondition_noise(self.sigmas[:-1]).to(device=device)
        self._step_index = 0

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the latents before the first evaluation, its churn included."""
        sigma, raised = self.config.sigma_max, float(self.sigmas[0])
        return (sigma**2 + self.config.S_noise**2 * (raised**2 - sigma**2)) ** 0.5

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        variance_noise: torch.Tensor | None = None,
    ) -> EDMEulerSchedulerOutput:
        """An Euler step; or the step of the slope's mean, and noise for the one that follows.

        Args:
            model_output: what the network F predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents x0 + sigma eps (B, …).
            variance_noise: standard normal noise (B, …), if there is churn.
        """
        index = self.step_index
        sigma, following = self.sigmas[index : index + 2]
        estimate = self.precondition_outputs(sample, model_output, sigma)
        slope = (sample - estimate) / sigma
        if index % 2 == 0:
            moved = sample + (following - sigma) * slope
            self._begun = [sample, slope]
        else:
            start, first = self._begun
            moved = start + (sigma - self.sigmas[index - 1]) * (first + slope) / 2
            self._begun = []
            if variance_noise is not None:
                added = (following**2 - sigma**2) ** 0.5
                moved = moved + self.config.S_noise * added * variance_noise
        self._step_index += 1
        return EDMEulerSchedulerOutput(moved, estimate)


GIVEN_NOISE = (
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    EDMHeunScheduler,
)
"""Schedulers that draw their own noise, here made to take it as an argument."""


def make_scheduler(
    settings: config.Scheduler,
    model_scheduler: Any,
    steps: int,
    device: torch.device,
    timesteps: Callable[[Any], dict[str, Any]],
) -> tuple[Any, float]:
    """The scheduler of the config with its timesteps set, and the eta of DDIM (0 for any other).

    Args:
        settings: class name and options. ``eta`` (Song et al., Denoising Diffusion Implicit
            Models, eq. 16) is an option of DDIM beside the constructor's own.
        model_scheduler: the model's own scheduler, whose configuration the options override.
        steps: denoiser evaluations. A scheduler with two a step is given about half as many
            steps, so that step indices count evaluations with every scheduler.
        device: where the timesteps are kept.
        timesteps: what ``set_timesteps`` of a scheduler is given beside steps and device.

    Raises:
        UserError: the class is not known here or not for such models, an option is not known or
            not possible, or the scheduler cannot make exactly this number of evaluations.
    """
    where = f"sampling.scheduler: {settings.name}"
    classes = {name: getattr(diffusers, name) for name in SCHEDULERS}
    classes |= {scheduler.__name__: scheduler for scheduler in GIVEN_NOISE}
    if settings.name not in classes:
        raise UserError(f"{where} is not supported, choose one of {', '.join(classes)}")
    scheduler_class = classes[settings.name]
    options = dict(settings.options)
    eta = options.pop("eta", 0.0) if settings.name == "DDIMScheduler" else 0.0
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
    if matches_flow(scheduler) != matches_flow(model_scheduler):
        problem = (
            "is no scheduler for a flow-matching model; choose FlowMatchEulerDiscreteScheduler, or "
            "give it the options use_flow_sigmas: true and prediction_type: flow_prediction"
            if matches_flow(model_scheduler)
            else "is for flow-matching models only"
        )
        raise UserError(f"{where} {problem}")
    if matches_edm(scheduler) != matches_edm(model_scheduler):
        problem = (
            "is no scheduler for an EDM; choose EDMHeunScheduler"
            if matches_edm(model_scheduler)
            else "is for EDM only"
        )
        raise UserError(f"{where} {problem}")
    _set_evaluations(scheduler, steps, device, timesteps(scheduler))
    if prediction_type(scheduler) not in PREDICTION_TYPES:
        raise UserError(f"{where}: prediction_type must be one of {', '.join(PREDICTION_TYPES)}")
    if is_stochastic(scheduler, eta) and not _takes_noise(scheduler):
        raise UserError(
            f"{where} draws its own noise with these options; only DDIMScheduler, "
            "DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, "
            "FlowMatchEulerDiscreteScheduler and EDMHeunScheduler can be given it"
        )
    return scheduler, float(eta)


def matches_flow(scheduler: Any) -> bool:
    """Whether latents are (1 - sigma) x0 + sigma eps and the denoiser predicts eps - x0.

    That is flow matching along straight lines (Lipman et al. 2023; Liu et al. 2023).
    """
    return "FlowMatch" in type(scheduler).__name__ or bool(_option(scheduler, "use_flow_sigmas"))


def matches_edm(scheduler: Any) -> bool:
    """Whether the denoiser is preconditioned as in EDM (Karras et al. 2022, table 1)."""
    return isinstance(scheduler, diffusers.EDMEulerScheduler)


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
        or isinstance(scheduler, EulerAncestralDiscreteScheduler)
        or bool(_option(scheduler, "stochastic_sampling"))
        or bool(_option(scheduler, "S_churn"))
        or (_option(scheduler, "algorithm_type") or "").startswith("sde")
    )


def _takes_noise(scheduler: Any) -> bool:
    return "variance_noise" in inspect.signature(scheduler.step).parameters


def noise_levels(scheduler: Any) -> np.ndarray:
    """float32 (S,): noise levels of the latents that enter each step, falling but for churn.

    They are sigma / alpha; for flow matching, where that is infinite at pure noise, sigma itself.
    """
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas[: len(scheduler.timesteps)]
    else:
        alphas = scheduler.alphas_cumprod[scheduler.timesteps.cpu()]
        sigmas = ((1 - alphas) / alphas).sqrt()
    return sigmas.cpu().numpy().astype(np.float32)


def tweedie(
    model_input: torch.Tensor, output: torch.Tensor, sigma: float, prediction_type: str
) -> torch.Tensor:
    """The Tweedie estimate x0 from what a denoiser was given and what it answered, float32.

    Every denoiser of these families sees x = alpha x0 + s eps with alpha^2 + s^2 = 1 and
    sigma = s / alpha, also where the scheduler itself keeps x0 + sigma eps. It answers with eps,
    with v = alpha eps - s x0 (Salimans and Ho, Progressive Distillation, appendix D), or with x0.
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
