"""The sampler that every model family shares: a diffusers pipeline, one step at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.flops import tflops
from ttsnap.errors import UserError


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts: tensors whose first dimension is the prompt, named as the family likes."""

    tensors: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def select(self, indices: torch.Tensor) -> Conditioning:
        """Some rows, in the order of ``indices``; a row may be taken more than once."""
        return Conditioning({name: tensor[indices] for name, tensor in self.tensors.items()})

    @staticmethod
    def concat(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of ``parts``, in order."""
        names = parts[0].tensors
        return Conditioning({name: torch.cat([p.tensors[name] for p in parts]) for name in names})


@dataclass(frozen=True, eq=False)
class State:
    """A batch of candidates somewhere on their way; a value that no step changes.

    Attributes:
        latents: noisy latents (B, C, h, w) that enter the next step.
        conditioning: one row per candidate.
        scheduler: diffusers scheduler with the history of these candidates.
        index: denoiser evaluations made so far, which is the index of the next step.
        steps: denoiser evaluations of a whole trajectory.
    """

    latents: torch.Tensor
    conditioning: Conditioning
    scheduler: Any
    index: int
    steps: int

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def done(self) -> bool:
        """Whether ``latents`` are the final ones."""
        return self.index == self.steps


class Sampler(ABC):
    """Denoises batches of candidates step by step; one subclass per model family.

    Attributes:
        steps: denoiser evaluations S of a trajectory.
        sigmas: float32 (S,), noise level sigma / alpha of the latents *entering* each step.
        stochastic: whether :meth:`step` needs noise.
        device: where latents live.
        dtype: precision of latents.
        latent_shape: shape of one candidate's latents.
    """

    pipeline_class: ClassVar[str]
    """Name of the diffusers pipeline class that the family drives."""

    device: torch.device
    dtype: torch.dtype
    latent_shape: tuple[int, ...]

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        """Take over scheduler and device; ``dtype`` and ``latent_shape`` are the subclass's to set.

        Raises:
            UserError: the scheduler is not possible.
        """
        self.pipe = pipe
        self.steps = sampling.steps
        self.device = pipe._execution_device
        self._scheduler, self._eta = schedulers.make_scheduler(
            sampling.scheduler, dict(pipe.scheduler.config), sampling.steps, self.device
        )
        self.sigmas = schedulers.noise_levels(self._scheduler)
        self.stochastic = schedulers.is_stochastic(self._scheduler, self._eta)

    @abstractmethod
    def encode(self, texts: Sequence[str], negatives: Sequence[str]) -> Conditioning:
        """Encode prompts and their negative prompts, one row each."""

    @abstractmethod
    def denoise(
        self, model_input: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One denoiser evaluation with its guidance.

        Args:
            model_input: latents (B, C, h, w) as the scheduler scales them.
            timestep: the scheduler's timestep, without dimensions.
            conditioning: B rows.

        Returns:
            What the model predicts, of the shape of ``model_input``.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents or Tweedie estimates (B, C, h, w) to images uint8 (B, H, W, 3)."""

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, *latent_shape), each candidate's from its own seed alone.

        It is drawn on the CPU in float32, so it depends neither on batch nor device nor precision.
        """
        drawn = [
            torch.randn(self.latent_shape, generator=torch.Generator("cpu").manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack(drawn).to(self.device, self.dtype)

    def start(
        self, conditioning: Conditioning, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> State:
        """Candidates before their first step, one per seed.

        Args:
            conditioning: encoded prompts.
            seeds: noise seeds.
            rows: prompt row of each candidate. By default all have the one prompt there is, or
                each its own.
        """
        return self.start_from(conditioning, self.noise(seeds), rows)

    def start_from(
        self,
        conditioning: Conditioning,
        noise: torch.Tensor,
        rows: Sequence[int] | None = None,
    ) -> State:
        """Like :meth:`start`, from standard normal noise (B, *latent_shape) of the caller's own."""
        if rows is None:
            rows = [0] * len(noise) if len(conditioning) == 1 else range(len(conditioning))
        if len(rows) != len(noise):
            raise ValueError(f"{len(noise)} candidates, but rows of prompts for {len(rows)}")
        return State(
            latents=noise * self._scheduler.init_noise_sigma,
            conditioning=conditioning.select(self._indices(rows)),
            scheduler=self._scheduler,
            index=0,
            steps=self.steps,
        )

    @torch.inference_mode()
    def evaluate(self, state: State) -> torch.Tensor:
        """What the denoiser says of every candidate: the costly part of :meth:`step`.

        Returns:
            Its output (B, *latent_shape) with guidance, which :meth:`step` takes as often as
            branches from this state are to be opened.

        Raises:
            UserError: the output is not finite.
        """
        if state.done:
            raise ValueError(f"all {state.steps} steps are done")
        scheduler = schedulers.fork(state.scheduler)
        timestep = scheduler.timesteps[state.index]
        model_input = scheduler.scale_model_input(state.latents, timestep)
        output = self.denoise(model_input, timestep, state.conditioning)
        if not torch.isfinite(output).all():
            raise UserError(
                f"the denoiser's output is not finite at step {state.index} of {self.steps} "
                f"({self.dtype}): try model.dtype float32 or bfloat16, or less guidance"
            )
        return output

    @torch.inference_mode()
    def step(
        self,
        state: State,
        noise: torch.Tensor | None = None,
        output: torch.Tensor | None = None,
    ) -> tuple[State, torch.Tensor]:
        """One denoiser evaluation for every candidate.

        ``state`` is left as it was: stepping it again, with other noise say, opens a branch.

        Args:
            noise: standard normal noise (B, *latent_shape) that a stochastic scheduler adds; its
                variance is the scheduler's.
            output: of :meth:`evaluate` for this state, which then is not evaluated again.

        Returns:
            The next state, and the Tweedie estimates x0 (B, *latent_shape) of this step: the
            scheduler's own where it reports one. At the last step they are the final latents,
            which is the same thing where the scheduler ends at sigma 0, and where it does not
            makes the last estimate the final image all the same.

        Raises:
            UserError: the denoiser's output is not finite.
        """
        if self.stochastic == (noise is None):
            needs = "needs" if self.stochastic else "is deterministic and takes no"
            raise ValueError(f"{type(self._scheduler).__name__} {needs} noise for its steps")
        if output is None:
            output = self.evaluate(state)
        scheduler = schedulers.fork(state.scheduler)
        timestep = scheduler.timesteps[state.index]
        model_input = scheduler.scale_model_input(state.latents, timestep)
        options: dict[str, Any] = {"eta": self._eta} if self._eta else {}
        if noise is not None:
            options["variance_noise"] = noise
        result = scheduler.step(output, timestep, state.latents, **options)
        following = replace(
            state, latents=result.prev_sample, scheduler=scheduler, index=state.index + 1
        )
        if following.done:
            return following, following.latents
        estimate = result.get("pred_original_sample")
        if estimate is None:
            sigma = float(self.sigmas[state.index])
            kind = scheduler.config.prediction_type
            estimate = schedulers.tweedie(model_input, output, sigma, kind)
        return following, estimate.to(self.dtype)

    @torch.inference_mode()
    def concat(self, states: Sequence[State]) -> State:
        """The candidates of several states, all before the same step, as one batch."""
        if len({state.index for state in states}) > 1:
            raise ValueError(f"states before steps {[state.index for state in states]}")
        return replace(
            states[0],
            latents=torch.cat([state.latents for state in states]),
            conditioning=Conditioning.concat([state.conditioning for state in states]),
            scheduler=schedulers.concat(
                [state.scheduler for state in states], [state.latents.shape for state in states]
            ),
        )

    @torch.inference_mode()
    def select(self, state: State, indices: Sequence[int] | np.ndarray) -> State:
        """Some candidates only, in the order of ``indices``; the others cost nothing any more."""
        chosen = self._indices(indices)
        return replace(
            state,
            latents=state.latents[chosen],
            conditioning=state.conditioning.select(chosen),
            scheduler=schedulers.select(state.scheduler, chosen, state.latents.shape),
        )

    def costs(
        self, measure: Callable[[Callable[[], object]], float] = tflops, batch: int = 1
    ) -> dict[str, float]:
        """Costs of one candidate: ``denoise`` (an evaluation with its guidance) and ``decode``.

        Args:
            measure: what a call costs: TFLOPs, or :func:`ttsnap.diffusion.flops.seconds`.
            batch: candidates that run together; the cost is their share of it.
        """
        state = self.start(self.encode([""], [""]), range(batch))
        timestep = state.scheduler.timesteps[0]
        model_input = schedulers.fork(state.scheduler).scale_model_input(state.latents, timestep)
        return {
            "denoise": measure(lambda: self.denoise(model_input, timestep, state.conditioning))
            / batch,
            "decode": measure(lambda: self.decode(state.latents)) / batch,
        }

    def _indices(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.device)
