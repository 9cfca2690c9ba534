"""Schedulers that are given the noise of a step as an argument, where stock ones draw their own."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_edm_euler import EDMEulerSchedulerOutput
from diffusers.schedulers.scheduling_lcm import LCMSchedulerOutput
from diffusers.schedulers.scheduling_scm import SCMSchedulerOutput
from diffusers.schedulers.scheduling_tcd import TCDSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput


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
        elif self.config.prediction_type != "v_prediction":
            raise NotImplementedError(f"prediction_type {self.config.prediction_type}")
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


class FlowMatchSDEScheduler(diffusers.FlowMatchEulerDiscreteScheduler):
    """Flow matching by the stochastic equation whose marginals are those of the flow.

    Along x = (1 - s) x0 + s eps, with s falling from 1 to 0, the score is -eps^/s, where
    x0^ = x - s v and eps^ = x + (1 - s) v are what the velocity v says of clean image and noise.
    For any g(s), dx = [v + g^2 / (2 s) eps^] ds + g dw, run backwards, has at every s the density
    of dx = v ds (Ma et al., SiT, arXiv 2401.08740; Kim et al., arXiv 2503.19385). Here
    g(s) = 3 s^2, which the authors of the latter configured for FLUX: noise where the picture is
    laid out, hardly any where its details are.

    A step from s to t does not take g and eps^ as constant, which adds too much noise (arXiv
    2509.05952), but x0^ only. The noise that is left, (x - (1 - s) x0^) / s, then is an
    Ornstein-Uhlenbeck process, which has an exact solution: it is kept with weight
    rho = exp(-1/2 integral of g^2 / u^2 du) and filled up to variance 1. Without noise, rho = 1,
    this is the Euler step of the flow; at t = 0 it ends in x0^.
    """

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        variance_noise: torch.Tensor,
    ) -> SchedulerOutput:
        """A step of the stochastic equation.

        Args:
            model_output: the flow v = eps - x0 that the denoiser predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents (1 - s) x0 + s eps (B, …).
            variance_noise: standard normal noise (B, …).
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        s, t = (float(sigma) for sigma in self.sigmas[self.step_index : self.step_index + 2])
        sample, velocity = sample.float(), model_output.float()
        estimate, noise = sample - s * velocity, sample + (1 - s) * velocity
        kept = math.exp(-1.5 * (s**3 - t**3))
        mixed = kept * noise + (1 - kept**2) ** 0.5 * variance_noise
        self._step_index += 1
        return SchedulerOutput(((1 - t) * estimate + t * mixed).to(model_output.dtype))


class LCMScheduler(diffusers.LCMScheduler):
    """The stock scheduler of latent consistency models, given the noise of a step."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        variance_noise: torch.Tensor,
    ) -> LCMSchedulerOutput:
        """Noise the model's estimate anew, to the next level (arXiv 2310.04378).

        Args:
            model_output: what the denoiser predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents (B, …).
            variance_noise: standard normal noise (B, …), not used at the last step.
        """
        result = super().step(model_output, timestep, sample, _unused(sample))
        if self.step_index < len(self.timesteps):
            alpha = self.alphas_cumprod[self.timesteps[self.step_index]]
            noise = variance_noise.to(result.denoised.dtype)
            result.prev_sample = alpha.sqrt() * result.denoised + (1 - alpha).sqrt() * noise
        return result


class TCDScheduler(diffusers.TCDScheduler):
    """The stock scheduler of trajectory consistency models, given the noise of a step."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.0,
        variance_noise: torch.Tensor | None = None,
    ) -> TCDSchedulerOutput:
        """Go below the next level and noise up to it (arXiv 2402.19159).

        Args:
            model_output: what the denoiser predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents (B, …).
            eta: gamma of the paper, how far below: 0 is deterministic.
            variance_noise: standard normal noise (B, …), if eta is above 0; not used at the last
                step.
        """
        result = super().step(model_output, timestep, sample, eta, _unused(sample))
        if variance_noise is not None and self.step_index < len(self.timesteps):
            following = self.timesteps[self.step_index]
            below = torch.floor((1 - eta) * following).long()
            ratio = self.alphas_cumprod[following] / self.alphas_cumprod[below]
            noise = variance_noise.to(result.pred_noised_sample.dtype)
            result.prev_sample = (
                ratio.sqrt() * result.pred_noised_sample + (1 - ratio).sqrt() * noise
            )
        return result


class SCMScheduler(diffusers.SCMScheduler):
    """The stock scheduler of continuous-time consistency models, given the noise of a step.

    Latents are y = cos t x0 + sin t eps (arXiv 2410.11081, section 3) in units of ``sigma_data``.
    ``timesteps`` are the angles at which steps begin, and ``sigmas`` their tangents; steps begin at
    noise alone, whose level is 4096 here.
    """

    MIDDLE = 1.3
    """Angle at which the second of two steps begins, as in the pipeline of SANA-Sprint."""

    timesteps: torch.Tensor

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Set angles from noise alone to 0, evenly but for two steps."""
        middle = self.MIDDLE if num_inference_steps == 2 else None
        super().set_timesteps(num_inference_steps, device=device, intermediate_timesteps=middle)
        self._angles = self.timesteps
        self.timesteps = self._angles[:-1]
        self.sigmas = self.timesteps.sin() / self.timesteps.cos().clamp(min=2**-12)
        self._step_index = 0

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        variance_noise: torch.Tensor,
    ) -> SCMSchedulerOutput:
        """Noise the model's estimate anew, to the next level.

        Args:
            model_output: v = cos t eps - sin t x0 that the denoiser predicts (B, …).
            timestep: entry of ``timesteps``.
            sample: latents (B, …).
            variance_noise: standard normal noise (B, …), not used at the last step.
        """
        start, end = self._angles[self.step_index : self.step_index + 2]
        estimate = start.cos() * sample - start.sin() * model_output
        self._step_index += 1
        noised = end.cos() * estimate + end.sin() * variance_noise
        return SCMSchedulerOutput(noised, estimate)


def _unused(sample: torch.Tensor) -> torch.Generator:
    """For noise that is thrown away, so that nobody else's generator moves."""
    return torch.Generator(sample.device)


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
    FlowMatchSDEScheduler,
    LCMScheduler,
    TCDScheduler,
    SCMScheduler,
    EDMHeunScheduler,
)
"""Schedulers that draw their own noise, here made to take it as an argument; and our own."""
