"""The sampler that every model family shares: a diffusers pipeline, one step at a time."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch

from ttsnap import config
from ttsnap.diffusion import schedulers
from ttsnap.diffusion.flops import tflops
from ttsnap.diffusion.loading import no_warnings
from ttsnap.diffusion.negtome import NegToMe
from ttsnap.errors import UserError

logger = logging.getLogger(__name__)


MASKED = ("prompt", "prompt_mask", "negative", "negative_mask")
"""Names of what ``encode_prompt`` of pipelines with masked text gives, in its order."""

POOLED = ("prompt", "negative", "prompt_pooled", "negative_pooled")
"""The same of pipelines with pooled text."""


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
        latents: noisy latents (B + extra, *latent_shape) that enter the next step.
        conditioning: one row for each of them.
        scheduler: diffusers scheduler with the history of all of them.
        index: denoiser evaluations made so far, which is the index of the next step.
        steps: denoiser evaluations of a whole trajectory.
        output: what the denoiser says of ``latents`` with guidance, once it was asked. Branches
            that differ by the noise of this very step share it.
        references: with NegToMe, row of each one's reference, as long as later evaluations need
            it; empty where candidates do not depend on each other any more.
        extra: how many of the last rows are no candidates, but references of some that go on
            without being chosen themselves, or are in another batch.
    """

    latents: torch.Tensor
    conditioning: Conditioning
    scheduler: Any
    index: int
    steps: int
    output: torch.Tensor | None = None
    references: tuple[int, ...] = ()
    extra: int = 0

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.latents) - self.extra

    @property
    def running(self) -> int:
        """Rows that an evaluation takes, which is what it costs."""
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
        frames: 1, or those of a video.
        scored_frames: how many of them rewards see.
        negtome: settings of NegToMe, or None.
        coupled: step indices at whose evaluation NegToMe acts; none without it.
        previewer: an ``AutoencoderTiny`` for :meth:`preview`, or None.
        release_text_encoders: whether text encoders are in main memory but while they encode.
        decodes_aside: whether an estimate may be decoded by one thread while another denoises.
    """

    pipeline_class: ClassVar[str]
    """Name of the diffusers pipeline class that the family drives."""

    frame_rate: ClassVar[float | None] = None
    """Frames per second of a family of videos; None of images."""

    previews: ClassVar[bool] = True
    """Whether there are tiny autoencoders for the latents of the family."""

    any_prompt: ClassVar[str] = ""
    """A prompt that every model of the family takes."""

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
        self.pipe = pipe
        self.steps = sampling.steps
        self.device = pipe._execution_device
        self.dtype: torch.dtype = self.denoiser.dtype
        self.height, self.width, self.frames = sampling.height, sampling.width, sampling.frames
        self.scored_frames = min(sampling.scored_frames, sampling.frames)
        self.latent_shape: tuple[int, ...] = self.latent_size()
        self.guidance_scale = sampling.guidance_scale
        self.guided = sampling.guidance_scale > 1 and not self.distilled
        self._scheduler, self._eta = schedulers.make_scheduler(
            sampling.scheduler, pipe.scheduler, sampling.steps, self.device, self.timesteps
        )
        self.sigmas = schedulers.noise_levels(self._scheduler)
        self.stochastic = schedulers.is_stochastic(self._scheduler, self._eta)
        self.negtome = sampling.negtome
        self._pusher, self.coupled = self._set_negtome()
        self._warned = False

    @classmethod
    def pipeline(cls) -> Any:
        """The class that :attr:`pipeline_class` names."""
        return getattr(diffusers, cls.pipeline_class)

    @classmethod
    def defaults(cls, pipe: Any) -> config.Sampling:
        """How the pipeline samples if its call is told nothing."""
        own = inspect.signature(pipe.__call__).parameters
        denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        size = getattr(pipe, "default_sample_size", None) or denoiser.config.get("sample_size")
        pixels = size and size * pipe.vae_scale_factor
        return config.Sampling(
            steps=own["num_inference_steps"].default,
            guidance_scale=own["guidance_scale"].default,
            height=pixels or own["height"].default,
            width=pixels or own["width"].default,
            frames=own["num_frames"].default if "num_frames" in own else 1,
            scheduler=config.Scheduler(name=type(pipe.scheduler).__name__),
        )

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

    def _set_negtome(self) -> tuple[NegToMe | None, list[int]]:
        if self.negtome is None:
            return None, []
        if self.stochastic:
            raise UserError("sampling.negtome: needs a deterministic scheduler")
        pusher = NegToMe(self.denoiser, self.negtome, self.width / self.height)
        times = self._scheduler.timesteps.tolist()
        coupled = [step for step, time in enumerate(times) if pusher.acts(time)]
        if not coupled:
            raise UserError(
                f"sampling.negtome: none of the {self.steps} timesteps, {times[0]:g} to "
                f"{times[-1]:g}, lies between t_start {self.negtome.t_start:g} and t_end "
                f"{self.negtome.t_end:g}"
            )
        return pusher, coupled

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
        with no_warnings(), self._text_encoders():
            tensors = self.embed(list(texts), list(negatives))
        return Conditioning({name: rows for name, rows in tensors.items() if rows is not None})

    @torch.inference_mode()
    def denoise(
        self,
        model_input: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        references: Sequence[int] = (),
    ) -> torch.Tensor:
        """One denoiser evaluation with its guidance.

        Classifier-free guidance (Ho and Salimans, eq. 6, with scale w + 1) puts negative and
        positive halves into one batch of 2 B.

        Args:
            model_input: latents (B, …) as the scheduler scales them.
            timestep: the scheduler's timestep, without dimensions.
            conditioning: B rows.
            references: row of each one's reference, from which NegToMe pushes it away, in both
                halves; none leaves all alone.

        Returns:
            What the model predicts, of the shape of ``model_input``.
        """
        if references and self._pusher is not None:
            halves = (0, len(references)) if self.guided else (0,)
            rows = [half + row for half in halves for row in references]
            with self._pusher.between(rows, conditioning.tensors["prompt"].shape[1]):
                return self.denoise(model_input, timestep, conditioning)
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
        """Latents or Tweedie estimates (B, *latent_shape) to uint8 (B, H, W, 3).

        A family of videos gives (B, F, H, W, 3).

        Raises:
            UserError: the decoder's output is not finite.
        """
        vae = self.pipe.vae
        scaled = self.unscale(self.unpack(latents).to(vae.dtype))
        return self._pixels(vae.decode(scaled, return_dict=False)[0])

    @torch.inference_mode()
    def preview(self, latents: torch.Tensor) -> np.ndarray:
        """What a check sees: like :meth:`decode`, by the tiny autoencoder if the model has one."""
        if self.previewer is None:
            return self.decode(latents)
        unpacked = self.unpack(latents).to(self.previewer.dtype)
        return self._pixels(self.previewer.decode(unpacked, return_dict=False)[0])

    def unscale(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) as the autoencoder made them, from those that are denoised."""
        settings = self.pipe.vae.config
        return latents / settings.scaling_factor + (settings.get("shift_factor") or 0.0)

    def _pixels(self, decoded: torch.Tensor) -> np.ndarray:
        # Clipped to pixels, a picture that overflowed would pass for a black or white one.
        if not torch.isfinite(decoded).all():
            raise UserError(
                f"the decoder's output is not finite ({self.dtype}): try model.dtype float32 or "
                "bfloat16"
            )
        return (self._postprocess(decoded) * 255).round().astype(np.uint8)

    def _postprocess(self, decoded: torch.Tensor) -> np.ndarray:
        """What an autoencoder gave as floats in [0, 1], channels last."""
        return self.pipe.image_processor.postprocess(decoded, output_type="np")

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
        if self._warned or self.text_limit is None:
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
        rows = self._rows(conditioning, len(seeds), rows)
        if references is None or self.negtome is None:
            return self.start_from(conditioning, self.noise(seeds), rows)
        everyone = list(zip(rows, seeds, references, strict=True))
        places = {
            (row, seed): place
            for place, (row, seed, reference) in enumerate(everyone)
            if seed == reference
        }
        extra: list[tuple[int, int]] = []
        for row, _, reference in everyone:
            if (row, reference) not in places:
                places[row, reference] = len(seeds) + len(extra)
                extra.append((row, reference))
        state = self.start_from(
            conditioning,
            self.noise([*seeds, *(reference for _, reference in extra)]),
            [*rows, *(row for row, _ in extra)],
        )
        referred = [(row, reference) for row, _, reference in everyone] + extra
        return replace(state, references=tuple(places[key] for key in referred), extra=len(extra))

    def start_from(
        self,
        conditioning: Conditioning,
        noise: torch.Tensor,
        rows: Sequence[int] | None = None,
    ) -> State:
        """Like :meth:`start`, from standard normal noise (B, *latent_shape) of the caller's own."""
        rows = self._rows(conditioning, len(noise), rows)
        return State(
            latents=noise * schedulers.initial_scale(self._scheduler),
            conditioning=conditioning.select(self._indices(rows)),
            scheduler=self._scheduler,
            index=0,
            steps=self.steps,
        )

    @staticmethod
    def _rows(
        conditioning: Conditioning, candidates: int, rows: Sequence[int] | None
    ) -> Sequence[int]:
        """Prompt row of each candidate."""
        if rows is None:
            rows = [0] * candidates if len(conditioning) == 1 else range(len(conditioning))
        if len(rows) != candidates:
            raise ValueError(f"{candidates} candidates, but rows of prompts for {len(rows)}")
        return rows

    @torch.inference_mode()
    def evaluate(self, state: State) -> State:
        """Ask the denoiser about every candidate: the costly part of :meth:`step`.

        Returns:
            The state with its ``output``, from which :meth:`step` opens as many branches as are
            wanted.

        Raises:
            UserError: the output is not finite.
        """
        if state.done:
            raise ValueError(f"all {state.steps} steps are done")
        scheduler = schedulers.fork(state.scheduler)
        timestep = scheduler.timesteps[state.index]
        model_input = schedulers.scale_model_input(scheduler, state.latents, timestep)
        references = state.references if state.index in self.coupled else ()
        output = self.denoise(model_input, timestep, state.conditioning, references)
        if not torch.isfinite(output).all():
            raise UserError(
                f"the denoiser's output is not finite at step {state.index} of {self.steps} "
                f"({self.dtype}): try model.dtype float32 or bfloat16, or less guidance"
            )
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

        Raises:
            UserError: the denoiser's output is not finite.
        """
        if self.stochastic == (noise is None):
            needs = "needs" if self.stochastic else "is deterministic and takes no"
            raise ValueError(f"{type(self._scheduler).__name__} {needs} noise for its steps")
        output = (state if state.output is not None else self.evaluate(state)).output
        assert output is not None
        scheduler = schedulers.fork(state.scheduler)
        timestep = scheduler.timesteps[state.index]
        model_input = schedulers.scale_model_input(scheduler, state.latents, timestep)
        options: dict[str, Any] = {"eta": self._eta} if self._eta else {}
        if noise is not None:
            options["variance_noise"] = noise
        result = scheduler.step(output, timestep, state.latents, **options)
        following = replace(
            state,
            latents=result.prev_sample,
            scheduler=scheduler,
            index=state.index + 1,
            output=None,
        )
        if following.references and following.index > self.coupled[-1]:
            following = self._take(following, range(len(following)))
        if following.done:
            return following, following.latents
        estimate = result.get("pred_original_sample")
        if estimate is None:
            sigma = float(self.sigmas[state.index])
            kind = schedulers.prediction_type(scheduler)
            estimate = schedulers.tweedie(model_input, output, sigma, kind)
        return following, estimate[: len(state)].to(self.dtype)

    @torch.inference_mode()
    def concat(self, states: Sequence[State]) -> State:
        """The candidates of several states, all before the same step, as one batch.

        All of them are evaluated, or none.
        """
        if len({state.index for state in states}) > 1:
            raise ValueError(f"states before steps {[state.index for state in states]}")
        outputs = [state.output for state in states if state.output is not None]
        joined = replace(
            states[0],
            latents=torch.cat([state.latents for state in states]),
            conditioning=Conditioning.concat([state.conditioning for state in states]),
            scheduler=schedulers.concat(
                [state.scheduler for state in states], [state.latents.shape for state in states]
            ),
            output=torch.cat(outputs) if outputs else None,
            references=(),
            extra=0,
        )
        if not any(state.references for state in states):
            return joined
        starts = list(accumulate((state.running for state in states), initial=0))
        references = [
            start + row
            for start, state in zip(starts, states, strict=False)
            for row in state.references or range(state.running)
        ]
        candidates = [
            start + row
            for start, state in zip(starts, states, strict=False)
            for row in range(len(state))
        ]
        return self.select(replace(joined, references=tuple(references)), candidates)

    @torch.inference_mode()
    def select(self, state: State, indices: Sequence[int] | np.ndarray) -> State:
        """Some candidates only, in the order of ``indices``; the others cost nothing any more.

        But for references: one that the chosen still need runs on as an extra row.
        """
        chosen = [int(index) for index in indices]
        if not state.references:
            return self._take(state, chosen)
        places = {row: place for place, row in enumerate(chosen)}
        rows = chosen.copy()
        for row in chosen:
            reference = state.references[row]
            if reference not in places:
                places[reference] = len(rows)
                rows.append(reference)
        return replace(
            self._take(state, rows),
            references=tuple(places[state.references[row]] for row in rows),
            extra=len(rows) - len(chosen),
        )

    def _take(self, state: State, rows: Sequence[int]) -> State:
        """Rows of a state, which know nothing of each other."""
        chosen = self._indices(rows)
        return replace(
            state,
            latents=state.latents[chosen],
            conditioning=state.conditioning.select(chosen),
            scheduler=schedulers.select(state.scheduler, chosen, state.latents.shape),
            output=None if state.output is None else state.output[chosen],
            references=(),
            extra=0,
        )

    def batches(self, state: State, size: int) -> list[range]:
        """Candidates of a state as consecutive batches of at most ``size`` rows.

        Those with a common reference stay together where they are neighbours and not too many, so
        that it need not run in several batches.
        """
        alone = state.references or range(len(state))
        together = [list(rows) for _, rows in groupby(range(len(state)), alone.__getitem__)]
        ranges, first, load = [], 0, 0
        for rows in together:
            needed = len({*rows, *(alone[row] for row in rows)})
            if load and load + needed > size:
                ranges.append(range(first, rows[0]))
                first, load = rows[0], 0
            load += needed
        ranges.append(range(first, len(state)))
        return [
            range(begin, min(begin + size, some.stop))
            for some in ranges
            for begin in range(some.start, some.stop, size)
        ]

    def costs(
        self, measure: Callable[[Callable[[], object]], float] = tflops, batch: int = 1
    ) -> dict[str, float]:
        """Costs of one candidate.

        Args:
            measure: what a call costs: TFLOPs, or :func:`ttsnap.diffusion.flops.seconds`.
            batch: candidates that run together; the cost is their share of it.

        Returns:
            ``denoise``, an evaluation with its guidance and, on average over the steps of a
            trajectory and the images of a group, what NegToMe adds to it; ``decode``; and
            ``preview``, if the model has a preview decoder.
        """
        state = self.start(self.encode([self.any_prompt], [""]), range(batch))
        calls: dict[str, Callable[[], object]] = {
            "denoise": partial(self._ask, state),
            "decode": partial(self.decode, state.latents),
        }
        if self.previewer is not None:
            calls["preview"] = partial(self.preview, state.latents)
        prices = {name: measure(call) / batch for name, call in calls.items()}
        if self.negtome is not None:
            size, reference = self.negtome.group, self.negtome.reference
            rows = [0] * size
            group = self.start(state.conditioning, range(size), rows, [reference] * size)
            pushing = measure(partial(self._ask, group))
            alone = measure(partial(self._ask, replace(group, references=())))
            prices["denoise"] += (pushing - alone) / size * len(self.coupled) / self.steps
        return prices

    def _ask(self, state: State) -> torch.Tensor:
        """What the denoiser says of a state before its first step, pushed where it has references.

        Unlike in :meth:`evaluate` it does not matter at which steps NegToMe acts.
        """
        timestep = state.scheduler.timesteps[0]
        scheduler = schedulers.fork(state.scheduler)
        model_input = schedulers.scale_model_input(scheduler, state.latents, timestep)
        return self.denoise(model_input, timestep, state.conditioning, state.references)

    def _indices(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.device)
