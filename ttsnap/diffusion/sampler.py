"""The sampler that every model family shares: a diffusers pipeline, one step at a time."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion import schedulers, twins
from ttsnap.diffusion.costs import Clock, costs
from ttsnap.diffusion.coupled import CoupledState, Coupling
from ttsnap.diffusion.defaults import defaults_of
from ttsnap.diffusion.finite import Finite
from ttsnap.diffusion.guidance import check_options, rescaled
from ttsnap.diffusion.loading import no_warnings
from ttsnap.diffusion.negtome import NegToMe
from ttsnap.diffusion.state import Conditioning, State, filled_up, prompt_rows
from ttsnap.diffusion.texts import MASKED, POOLED, awake, first_too_long
from ttsnap.errors import UserError

__all__ = ["MASKED", "POOLED", "Conditioning", "Sampler", "State"]

logger = logging.getLogger(__name__)


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
        noisy_steps: step indices at which that noise has an effect on the latents that follow.
        guided: whether an evaluation is two passes, for the prompt and its negative: where the
            guidance scale is above :attr:`guided_above`, as in the pipelines' own calls. At 0 there
            is none.
        guidance_options: names of what guidance takes beside its scale.
        device: where latents live.
        dtype: precision of latents.
        autocast: precision that the denoiser is evaluated in, or None: in that of its weights.
        batch_sizes: numbers of candidates, ascending, up to which evaluations are filled up.
        finite: whether outputs are finite.
        latent_shape: shape of one candidate's latents, as the pipeline keeps them.
        frames: 1, or those of a video.
        scored_frames: how many of them rewards see.
        negtome: settings of NegToMe, or None.
        coupling: how NegToMe ties candidates, or None.
        coupled: step indices at whose evaluation it does; none without it.
        previewer: an ``AutoencoderTiny`` for :meth:`preview`, or None.
        release_text_encoders: whether text encoders are in main memory but while they encode.
        decodes_aside: whether an estimate may be decoded by one thread while another denoises.
    """

    pipeline_class: ClassVar[str]
    """Name of the diffusers pipeline class that the family drives."""

    stochastic_scheduler: ClassVar[config.Scheduler]
    """What the family samples with where noise is wanted at every step."""

    frame_rate: float | None = None
    """Frames per second of a family of videos; None of images."""

    any_prompt: ClassVar[str] = ""
    """A prompt that every model of the family takes."""

    guided_above: ClassVar[float] = 1.0
    """Guidance scale above which there is classifier-free guidance."""

    apart: ClassVar[bool] = False
    """Whether its two passes are one after the other, as in the pipeline, instead of one batch."""

    autocast: torch.dtype | None = None
    batch_sizes: tuple[int, ...] = ()
    guidance_options: tuple[str, ...] = ()
    previewer: Any = None
    release_text_encoders = False
    decodes_aside = True

    def __init__(self, pipe: Any, sampling: config.Sampling) -> None:
        """
        Args:
            pipe: a pipeline of the family's class.
            sampling: steps, guidance, size in pixels and scheduler.

        Raises:
            UserError: the size or the scheduler is not possible.
        """
        self.pipe, self.sampling = pipe, sampling
        check_options(sampling.guidance_options, self.guidance_options, self.pipeline_class)
        self.steps = sampling.steps
        self.device = pipe._execution_device
        self.dtype: torch.dtype = self.denoiser.dtype
        self.height, self.width, self.frames = sampling.height, sampling.width, sampling.frames
        self.scored_frames = min(sampling.scored_frames, sampling.frames)
        self.latent_shape: tuple[int, ...] = self.latent_size()
        self.guidance_scale = sampling.guidance_scale
        self.guided = sampling.guidance_scale > self.guided_above and not self.distilled
        self._scheduler, self._eta = schedulers.make_scheduler(
            sampling.scheduler, pipe.scheduler, sampling.steps, self.device, self.timesteps
        )
        self.sigmas = schedulers.noise_levels(self._scheduler)
        self.stochastic = schedulers.is_stochastic(self._scheduler, self._eta)
        self.noisy_steps = schedulers.noisy_steps(self._scheduler, self._eta)
        # A step looks at the time, which on a GPU would wait for all that it has to do.
        self._scheduler.timesteps = self._scheduler.timesteps.cpu()
        self.negtome = sampling.negtome
        self.couple()
        self.finite = Finite()
        self._warned = False

    def with_noise(self) -> Sampler:
        """This one if its steps add noise, else the same with the family's stochastic scheduler.

        NegToMe, which has no such steps, is then left out with one notice.
        """
        return self if self.stochastic else self._with_noise

    @cached_property
    def _with_noise(self) -> Sampler:
        return twins.noisy(self)

    def drafter(self, steps: int, guided: bool) -> Sampler:
        """One for cheap drafts of so many steps, with classifier-free guidance or without."""
        return twins.drafter(self, steps, guided)

    @classmethod
    def pipeline(cls) -> Any:
        """The class that :attr:`pipeline_class` names."""
        return getattr(diffusers, cls.pipeline_class)

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """How the pipeline samples if its call is told nothing."""
        return defaults_of(pipe)

    def latent_size(self) -> tuple[int, ...]:
        """Shape of a candidate's latents as the autoencoder has them: C, h, w.

        Raises:
            UserError: no candidate can be of the size that is asked for.
        """
        multiple = self.size_multiple
        if self.height % multiple or self.width % multiple:
            size = f"{self.height}x{self.width}"
            raise UserError(
                f"sampling: height and width must be multiples of {multiple}, not {size}"
            )
        if self.frames != 1 and self.frame_rate is None:
            raise UserError(f"sampling.frames: an image has 1, not {self.frames}")
        factor = self.scale_factor
        return self.denoiser.config.in_channels, self.height // factor, self.width // factor

    @property
    def scale_factor(self) -> int:
        """Pixels of a latent, in height and width."""
        return self.pipe.vae_scale_factor

    def couple(self) -> None:
        """Tie NegToMe, if there is any, to the layers of the denoiser."""
        self.coupling: Coupling | None = None
        if self.negtome is not None:
            if self.stochastic:
                raise UserError("sampling.negtome: needs a deterministic scheduler")
            pusher = NegToMe(self.denoiser, self.negtome, self.width / self.height)
            times = self._scheduler.timesteps.tolist()
            self.coupling = Coupling.over(
                times, pusher, passes=1 if self.apart else 1 + self.guided
            )
        self.coupled = list(self.coupling.steps) if self.coupling else []

    @property
    def denoiser(self) -> Any:
        """The network that is evaluated at every step."""
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    @property
    def stages(self) -> list[tuple[Sampler, int]]:
        """Who denoises, in turn, each with the number of its steps: the one and only for all."""
        return [(self, self.steps)]

    @property
    def distilled(self) -> bool:
        """Whether the guidance scale is an input of the denoiser instead of a second pass.

        It is then taken as it is, 0 and 1 too.
        """
        return False

    @property
    @abstractmethod
    def size_multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""

    @property
    def text_limit(self) -> tuple[Any, int] | None:
        """The tokenizer of the text encoder that reads furthest, and how many tokens it reads.

        None if there is no limit.
        """
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
        with no_warnings(), awake(self.pipe, self.device, self.release_text_encoders):
            tensors = self.embed(list(texts), list(negatives))
        return Conditioning({name: rows for name, rows in tensors.items() if rows is not None})

    @torch.inference_mode()
    def denoise(
        self, model_input: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """One denoiser evaluation with its guidance.

        Classifier-free guidance puts negative and positive halves into one batch of 2 B, or asks
        for one after the other.

        Args:
            model_input: latents (B, …) as the scheduler scales them.
            timestep: the scheduler's timestep, without dimensions, in main memory.
            conditioning: B rows.

        Returns:
            What the model predicts, of the shape of ``model_input``.
        """
        tensors = conditioning.tensors
        if not self.guided:
            return self._prediction(model_input, timestep, tensors)
        names = [name for name in tensors if name.startswith("prompt")]
        negatives = {name: tensors[name.replace("prompt", "negative", 1)] for name in names}
        if self.apart:
            positive = self._prediction(model_input, timestep, tensors)
            negative = self._prediction(model_input, timestep, negatives)
        else:
            both = {name: torch.cat([negatives[name], tensors[name]]) for name in names}
            output = self._prediction(torch.cat([model_input] * 2), timestep, both)
            negative, positive = output.chunk(2)
        return self.guide(positive, negative)

    def _prediction(self, model_input: torch.Tensor, timestep: torch.Tensor, prompts: Any) -> Any:
        """:meth:`predict`, cast down for as long as it takes."""
        given = model_input, timestep.to(self.device, non_blocking=True), prompts
        if self.autocast is None:
            return self.predict(*given)
        with torch.autocast(self.device.type, self.autocast):
            return self.predict(*given).to(model_input.dtype)

    def guide(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """What follows from both passes (Ho and Salimans, eq. 6, with scale w + 1)."""
        guided = negative + self.guidance_scale * (positive - negative)
        strength = self.sampling.guidance_options.get("guidance_rescale", 0.0)
        return rescaled(guided, positive, strength) if strength else guided

    def priced_text(self) -> Conditioning:
        """The text with which an evaluation is priced, one row."""
        return self.encode([self.any_prompt], [""])

    @property
    def autoencoder(self) -> Any:
        """What latents are decoded by."""
        return self.pipe.vae

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, *latent_shape) as images (B, C, h, w)."""
        return latents

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents or estimates (B, *latent_shape) to uint8 (B, H, W, 3), videos (B, F, H, W, 3).

        Raises:
            UserError: its output, or that of an evaluation before it, is not finite.
        """
        return self._pixels(self.reconstruct(latents))

    @torch.inference_mode()
    def preview(self, latents: torch.Tensor) -> np.ndarray:
        """What a check sees: like :meth:`decode`, by the tiny autoencoder if the model has one."""
        if self.previewer is None:
            return self.decode(latents)
        return self._pixels(self.reconstruct_preview(latents))

    def reconstruct(self, latents: torch.Tensor) -> torch.Tensor:
        """What the autoencoder makes of latents: images (B, 3, H, W) in [-1, 1], or videos."""
        vae = self.autoencoder
        scaled = self.unscale(self.unpack(latents).to(vae.dtype))
        return vae.decode(scaled, return_dict=False)[0]

    def reconstruct_preview(self, latents: torch.Tensor) -> torch.Tensor:
        """The same by the tiny autoencoder."""
        unpacked = self.unpack(latents).to(self.previewer.dtype)
        return self.previewer.decode(unpacked, return_dict=False)[0]

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) as the autoencoder made them, from those that are denoised."""
        settings = self.pipe.vae.config
        return latents / settings.scaling_factor + (settings.get("shift_factor") or 0.0)

    def _pixels(self, decoded: torch.Tensor) -> np.ndarray:
        # Clipped to pixels, a picture that overflowed would pass for a black or white one.
        self.finite.note(decoded, "decoder", self.dtype)
        pixels = (self._postprocess(decoded).float() * 255).round().to(torch.uint8)
        images: np.ndarray = pixels.movedim(-3, -1).contiguous().cpu().numpy()
        self.finite.read()
        return images

    def _postprocess(self, decoded: torch.Tensor) -> torch.Tensor:
        """What an autoencoder gave, in [0, 1]: (B, 3, H, W), or videos (B, F, 3, H, W)."""
        return self.pipe.image_processor.postprocess(decoded, output_type="pt")

    def _warn_of_truncation(self, texts: list[str]) -> None:
        if self._warned or self.text_limit is None:
            return
        if (text := first_too_long(texts, *self.text_limit)) is not None:
            self._warned = True
            logger.warning(
                "prompts longer than the text encoder's %d tokens are cut off, such as %r",
                self.text_limit[1],
                text[:60],
            )

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal noise (B, *latent_shape), each candidate's from its own seed alone.

        It is drawn on the CPU in float32, so it depends neither on batch nor device nor precision.
        """
        return self._draw(seeds, self.latent_shape)

    def _draw(self, seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(drawn).to(self.device, self.dtype, non_blocking=True)

    def start(
        self,
        conditioning: Conditioning,
        seeds: Sequence[int],
        rows: Sequence[int] | None = None,
        references: Sequence[int] | None = None,
    ) -> State:
        """Candidates before their first step, one per seed.

        Args:
            conditioning: encoded prompts.
            seeds: noise seeds.
            rows: prompt row of each candidate. By default all have the one prompt there is, or
                each its own.
            references: for NegToMe, the seed of each one's reference, of the same prompt row. A
                reference that is no candidate here runs along as an extra row. By default each
                candidate is its own, and nothing is pushed.
        """
        rows = prompt_rows(conditioning, len(seeds), rows)
        if references is None or self.coupling is None:
            return self.start_from(conditioning, self.noise(seeds), rows)
        everyone, all_rows, places = self.coupling.rows(seeds, rows, references)
        state = self.start_from(conditioning, self.noise(everyone), all_rows)
        return CoupledState.of(state, self.coupling, places, len(everyone) - len(seeds))

    def start_from(
        self,
        conditioning: Conditioning,
        noise: torch.Tensor,
        rows: Sequence[int] | None = None,
    ) -> State:
        """Like :meth:`start`, from standard normal noise (B, *latent_shape) of the caller's own."""
        rows = prompt_rows(conditioning, len(noise), rows)
        return State(
            latents=noise * schedulers.initial_scale(self._scheduler),
            conditioning=conditioning,
            rows=tuple(rows),
            scheduler=self._scheduler,
            index=0,
            steps=self.steps,
        )

    @torch.inference_mode()
    def evaluate(self, state: State) -> State:
        """Ask the denoiser about every candidate: the costly part of :meth:`step`.

        Whether its output is finite is read at the next :meth:`decode`: a GPU goes on meanwhile.

        Returns:
            The state with its ``output``, from which :meth:`step` opens as many branches as are
            wanted.
        """
        if state.done:
            raise ValueError(f"all {state.steps} steps are done")
        timestep, model_input = schedulers.model_input(state.scheduler, state.index, state.latents)
        model_input, prompts = filled_up(model_input, state.prompts, self.batch_sizes)
        with state.coupled():
            output = self.denoise(model_input, timestep, prompts)[: state.running]
        where = f" at step {state.index} of {self.steps}"
        self.finite.note(output, "denoiser", self.dtype, where, ", or less guidance")
        return replace(state, output=output)

    @torch.inference_mode()
    def step(self, state: State, noise: torch.Tensor | None = None) -> tuple[State, torch.Tensor]:
        """One denoiser evaluation for every candidate, unless ``state`` has been evaluated.

        ``state`` is left as it was: stepping it again, with other noise say, opens a branch.

        Args:
            noise: standard normal noise (B, *latent_shape) that a stochastic scheduler adds; its
                variance is the scheduler's.

        Returns:
            The next state, and the Tweedie estimates x0 (B, *latent_shape) of this step: the
            scheduler's own where it reports one. At the last step they are the final latents,
            which is the same thing where the scheduler ends at sigma 0, and where it does not
            makes the last estimate the final image all the same.
        """
        if self.stochastic == (noise is None):
            needs = "needs" if self.stochastic else "is deterministic and takes no"
            raise ValueError(f"{type(self._scheduler).__name__} {needs} noise for its steps")
        output = (state if state.output is not None else self.evaluate(state)).output
        assert output is not None
        sigma = float(self.sigmas[state.index])
        scheduler, latents, estimates = schedulers.step(
            state.scheduler, state.index, state.latents, output, sigma, self._eta, noise
        )
        following = state.after_step(latents, scheduler)
        if following.done:
            return following, following.latents
        return following, estimates[: len(state)].to(self.dtype)

    @torch.inference_mode()
    def concat(self, states: Sequence[State]) -> State:
        """The candidates of several states, all before the same step, as one batch.

        All of them are evaluated, or none; all have references, or none.
        """
        if len({state.index for state in states}) > 1:
            raise ValueError(f"states before steps {[state.index for state in states]}")
        return type(states[0]).concat(states)

    @torch.inference_mode()
    def select(self, state: State, indices: Sequence[int] | np.ndarray) -> State:
        """Some candidates only, in the order of ``indices``; the others cost nothing any more.

        But for references: one that the chosen still need runs on as an extra row.
        """
        return state.select([int(index) for index in indices])

    def batches(self, state: State, size: int) -> list[range]:
        """Candidates of a state as consecutive batches of at most ``size`` rows."""
        return state.batches(size)

    def costs(self, clock: Clock | None = None, batch: int = 1) -> dict[str, float]:
        """What a candidate costs in TFLOPs, or by a clock: :func:`ttsnap.diffusion.costs.costs`."""
        return costs(self, clock, batch)
