"""The sampler that every model family shares: a diffusers pipeline, one step at a time."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.flops import tflops
from ttsnap.diffusion.loading import no_warnings
from ttsnap.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded prompts: tensors whose first dimension is the prompt.

    They are named ``prompt`` and ``prompt_…`` as the family likes. With classifier-free guidance
    each has a counterpart of its shape from the negative prompts, ``negative`` and ``negative_…``.
    """

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
        latents: noisy latents (B, *latent_shape) that enter the next step.
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

    The pipeline itself is left as it is, also its scheduler; run to the end, candidates have the
    pixels that its own call would give them.

    Attributes:
        pipe: the diffusers pipeline.
        steps: denoiser evaluations S of a trajectory.
        sigmas: float32 (S,), noise level of the latents *entering* each step: sigma / alpha, or
            the sigma in (0, 1] of flow matching.
        stochastic: whether :meth:`step` needs noise.
        guided: whether an evaluation is two passes, for the prompt and its negative.
        device: where latents live.
        dtype: precision of latents.
        latent_shape: shape of one candidate's latents, as the pipeline keeps them.
        previewer: an ``AutoencoderTiny`` for :meth:`preview`, or None.
        release_text_encoders: whether text encoders are in main memory but while they encode.
    """

    pipeline_class: ClassVar[str]
    """Name of the diffusers pipeline class that the family drives."""

    previewer: Any = None
    release_text_encoders = False

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        """
        Args:
            pipe: a pipeline of the family's class.
            sampling: steps, guidance, size in pixels and scheduler.

        Raises:
            UserError: the size or the scheduler is not possible.
        """
        self.pipe = pipe
        self.steps = sampling.steps
        self.device = pipe._execution_device
        self.dtype: torch.dtype = self.denoiser.dtype
        self.height, self.width = sampling.height, sampling.width
        multiple = self.size_multiple
        if self.height % multiple or self.width % multiple:
            size = f"{self.height}x{self.width}"
            raise UserError(
                f"sampling: height and width must be multiples of {multiple}, not {size}"
            )
        factor = pipe.vae_scale_factor
        self.latent_shape: tuple[int, ...] = (
            self.denoiser.config.in_channels,
            self.height // factor,
            self.width // factor,
        )
        self.guidance_scale = sampling.guidance_scale
        self.guided = sampling.guidance_scale > 1 and not self.distilled
        self._scheduler, self._eta = schedulers.make_scheduler(
            sampling.scheduler, pipe.scheduler, sampling.steps, self.device, self.timesteps
        )
        self.sigmas = schedulers.noise_levels(self._scheduler)
        self.stochastic = schedulers.is_stochastic(self._scheduler, self._eta)
        self._warned = False

    @property
    def denoiser(self) -> Any:
        """The network that is evaluated at every step."""
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    @property
    def distilled(self) -> bool:
        """Whether the guidance scale is an input of the denoiser instead of a second pass."""
        return False

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""

    @property
    def text_limit(self) -> tuple[Any, int]:
        """The tokenizer of the text encoder that reads furthest, and how many tokens it reads."""
        return self.pipe.tokenizer, self.pipe.tokenizer.model_max_length

    def timesteps(self, scheduler: Any) -> dict[str, Any]:
        """What the pipeline hands ``scheduler.set_timesteps`` beside the number of steps."""
        return {}

    @abstractmethod
    def embed(self, texts: list[str], negatives: list[str]) -> dict[str, torch.Tensor | None]:
        """Encode prompts as :class:`Conditioning` names them; what is not needed may be None.

        Args:
            texts: P prompts.
            negatives: their negative prompts, which only guidance needs.
        """

    @abstractmethod
    def predict(
        self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One pass of the denoiser.

        Args:
            model_input: latents (B, …) as the scheduler scales them.
            timestep: the scheduler's timestep, without dimensions.
            prompts: encoded prompts of B rows, positive or negative; names start with ``prompt``.

        Returns:
            What the model predicts, of the shape of ``model_input``.
        """

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], negatives: Sequence[str]) -> Conditioning:
        """Encode prompts and their negative prompts, one row each.

        Without guidance negative prompts are not used. What exceeds the text encoders' length is
        cut off, with one warning.
        """
        self._warn_of_truncation([*texts, *negatives] if self.guided else list(texts))
        with no_warnings(), self._text_encoders():
            tensors = self.embed(list(texts), list(negatives))
        return Conditioning({name: rows for name, rows in tensors.items() if rows is not None})

    @torch.inference_mode()
    def denoise(
        self, model_input: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One denoiser evaluation with its guidance.

        Classifier-free guidance (Ho and Salimans, eq. 6, with scale w + 1) puts negative and
        positive halves into one batch of 2 B.

        Args:
            model_input: latents (B, …) as the scheduler scales them.
            timestep: the scheduler's timestep, without dimensions.
            conditioning: B rows.

        Returns:
            What the model predicts, of the shape of ``model_input``.
        """
        tensors = conditioning.tensors
        if not self.guided:
            return self.predict(model_input, timestep, tensors)
        prompts = {
            name: torch.cat([tensors[name.replace("prompt", "negative", 1)], rows])
            for name, rows in tensors.items()
            if name.startswith("prompt")
        }
        output = self.predict(torch.cat([model_input] * 2), timestep, prompts)
        negative, positive = output.chunk(2)
        return negative + self.guidance_scale * (positive - negative)

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, *latent_shape) as images (B, C, h, w)."""
        return latents

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents or Tweedie estimates (B, *latent_shape) to images uint8 (B, H, W, 3)."""
        vae = self.pipe.vae
        scaled = self.unscale(self.unpack(latents).to(vae.dtype))
        return self._pixels(vae.decode(scaled, return_dict=False)[0])

    @torch.inference_mode()
    def preview(self, latents: torch.Tensor) -> np.ndarray | None:
        """Like :meth:`decode`, by the tiny autoencoder; None if the model has none."""
        if self.previewer is None:
            return None
        unpacked = self.unpack(latents).to(self.previewer.dtype)
        return self._pixels(self.previewer.decode(unpacked, return_dict=False)[0])

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) as the autoencoder made them, from those that are denoised."""
        settings = self.pipe.vae.config
        return latents / settings.scaling_factor + (settings.get("shift_factor") or 0.0)

    def _pixels(self, decoded: torch.Tensor) -> np.ndarray:
        images = self.pipe.image_processor.postprocess(decoded, output_type="np")
        return (images * 255).round().astype(np.uint8)

    @contextmanager
    def _text_encoders(self) -> Iterator[None]:
        """Text encoders where they can run, and out of the way again if they are released."""
        components = self.pipe.components if self.release_text_encoders else {}
        encoders = [
            part for name, part in components.items() if part and name.startswith("text_encoder")
        ]
        for encoder in encoders:
            encoder.to(self.device)
        yield
        for encoder in encoders:
            encoder.to("cpu")

    def _warn_of_truncation(self, texts: list[str]) -> None:
        if self._warned:
            return
        tokenizer, longest = self.text_limit
        lengths = map(len, tokenizer(texts, verbose=False).input_ids)
        if too_long := [t for t, length in zip(texts, lengths, strict=True) if length > longest]:
            self._warned = True
            logger.warning(
                "prompts longer than the text encoder's %d tokens are cut off, such as %r",
                longest,
                too_long[0][:60],
            )

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, *latent_shape), each candidate's from its own seed alone.

        It is drawn on the CPU in float32, so it depends neither on batch nor device nor precision.
        """
        return self._draw(seeds, self.latent_shape)

    def _draw(self, seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
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
            latents=noise * schedulers.initial_scale(self._scheduler),
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
        model_input = schedulers.scale_model_input(scheduler, state.latents, timestep)
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
        model_input = schedulers.scale_model_input(scheduler, state.latents, timestep)
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
            kind = schedulers.prediction_type(scheduler)
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
        """Costs of one candidate.

        Args:
            measure: what a call costs: TFLOPs, or :func:`ttsnap.diffusion.flops.seconds`.
            batch: candidates that run together; the cost is their share of it.

        Returns:
            ``denoise``, an evaluation with its guidance; ``decode``; and ``preview``, if the model
            has a preview decoder.
        """
        state = self.start(self.encode([""], [""]), range(batch))
        timestep = state.scheduler.timesteps[0]
        model_input = schedulers.scale_model_input(
            schedulers.fork(state.scheduler), state.latents, timestep
        )
        calls: dict[str, Callable[[], object]] = {
            "denoise": lambda: self.denoise(model_input, timestep, state.conditioning),
            "decode": lambda: self.decode(state.latents),
        }
        if self.previewer is not None:
            calls["preview"] = lambda: self.preview(state.latents)
        return {name: measure(call) / batch for name, call in calls.items()}

    def _indices(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.device)
