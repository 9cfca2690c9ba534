"""What a search of a configuration needs of memory, on the GPU and beside it, and what would help.

Counted for one search: the generator, its candidates at once, and the reward that judges them.
Finetuning, which keeps gradients, needs more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttsnap.config import FILE, GGUF, Config
from ttsnap.diffusion.headers import header
from ttsnap.errors import UserError
from ttsnap.run.weights import weight_files

if TYPE_CHECKING:
    from ttsnap.diffusion.memory import Footprint, Weights

VERIFIERS = {
    "PickScore_v1": 986e6,
    "HPSv2": 986e6,
    "ImageReward": 447e6,
    "vit-base-patch16-224": 86.6e6,
}
"""Repository of a reward, without its owner -> its parameters; they are float32."""

Change = tuple[str, str, Any]
"""Section, setting and value."""

CHANGES: tuple[Change, ...] = (
    ("runtime", "release_text_encoders", True),
    ("runtime", "vae_slicing", True),
    ("runtime", "batch_size", 4),
    ("runtime", "batch_size", 1),
    ("runtime", "offload", "model"),
    ("model", "quantization", "int8"),
    ("model", "quantization", "bnb-nf4"),
    ("runtime", "offload", "group"),
)
"""What saves memory, in the order in which to try it."""


@dataclass(frozen=True)
class Memory:
    """What a search needs; all numbers are bytes.

    Attributes:
        config: of it.
        shapes: of its generator.
        verifier: of the reward that judges; None where that is not known without a download.
    """

    config: Config
    shapes: Footprint
    verifier: float | None

    @property
    def on_gpu(self) -> bool:
        """Whether the configuration computes on a GPU, as far as it says."""
        return self.config.runtime.device != "cpu"

    @property
    def _precision(self) -> int:
        chosen = self.config.model.dtype
        if chosen == "auto":
            chosen = "bfloat16" if self.on_gpu else "float32"
        return 4 if chosen == "float32" else 2

    def _weights(self, part: Weights, quantization: str | None) -> float:
        return part.bytes(self._precision, quantization)

    @cached_property
    def denoisers(self) -> list[float]:
        """Weights of the denoiser, or of both that share the steps."""
        model = self.config.model
        if model.path.endswith(GGUF):
            return [float(Path(model.path).stat().st_size)]
        return [self._weights(one, model.quantization) for one in self.shapes.denoisers]

    @cached_property
    def texts(self) -> list[float]:
        """Weights of each text encoder."""
        chosen = self.config.model.quantization
        packed = None if chosen == "fp8" else chosen
        return [self._weights(text, packed) for text in self.shapes.texts]

    @property
    def vae(self) -> float:
        """Weights of the autoencoder."""
        return self._weights(self.shapes.vae, None)

    @property
    def denoising(self) -> float:
        """What an evaluation of the candidates at once holds beside weights."""
        return self.shapes.denoise * self.config.runtime.batch_size * self._precision

    @property
    def decoding(self) -> float:
        """What their decode holds, which is in float32 where SDXL's would overflow."""
        model, runtime = self.config.model, self.config.runtime
        upcast = model.family == "sdxl" and model.dtype == "float16"
        at_once = 1 if runtime.vae_slicing else runtime.batch_size
        return self.shapes.decode * at_once * (4 if upcast else self._precision)

    @property
    def _most(self) -> float:
        """Where everything is computed, at once."""
        denoisers, texts = sum(self.denoisers), sum(self.texts)
        working = max(self.denoising, self.decoding)
        match self.config.runtime.offload:
            case "none" if self.config.runtime.release_text_encoders:
                generator = denoisers + self.vae + max(texts, working)
            case "none":
                generator = denoisers + self.vae + texts + working
            case "model":
                largest = max(self.texts, default=0.0)
                denoising = max(self.denoisers) + self.denoising
                generator = max(denoising, self.vae + self.decoding, largest)
            case _:
                # A layer or two are small beside what is computed with them.
                generator = self.vae + working
        return generator + (self.verifier or 0.0)

    @property
    def gpu(self) -> float:
        """On the GPU, at once; 0 without one."""
        return self._most if self.on_gpu else 0.0

    @property
    def main(self) -> float:
        """In main memory: what waits there; without a GPU everything."""
        if not self.on_gpu:
            return self._most
        denoisers, texts = sum(self.denoisers), sum(self.texts)
        match self.config.runtime.offload:
            case "none":
                return texts if self.config.runtime.release_text_encoders else 0.0
            case "group":
                return denoisers + texts
        return denoisers + texts + self.vae

    def savings(self, limit: float) -> Iterator[tuple[str, float]]:
        """What brings the need for GPU memory to ``limit`` bytes, each with what is needed then.

        Single settings that do; if none does, those that do together, if any.
        """
        changes = [change for change in CHANGES if self._may(change)]
        alone = [(_text([one]), self._with([one]).gpu) for one in changes]
        if fitting := [(text, size) for text, size in alone if size <= limit]:
            yield from fitting
            return
        chosen: list[Change] = []
        # Some help only beside what comes later.
        for change in changes * 2:
            more = [*(one for one in chosen if one[1] != change[1]), change]
            if self._with(more).gpu < self._with(chosen).gpu:
                chosen = more
            if self._with(chosen).gpu <= limit:
                break
        for change in list(chosen):
            fewer = [one for one in chosen if one != change]
            if self._with(fewer).gpu <= limit:
                chosen = fewer
        if (together := self._with(chosen).gpu) <= limit:
            yield _text(chosen), together

    def _with(self, changes: Sequence[Change]) -> Memory:
        """With other settings."""
        config = self.config
        for section, name, value in changes:
            part = getattr(config, section).model_copy(update={name: value})
            config = config.model_copy(update={section: part})
        return replace(self, config=config)

    def _may(self, change: Change) -> bool:
        """Whether a setting is not chosen yet, and can be had of the model."""
        _, name, value = change
        model = self.config.model
        if name == "quantization":
            one_file = model.path.endswith(FILE) and value != "int8"
            return model.quantization is None and not one_file
        return name != "batch_size" or value < self.config.runtime.batch_size


def _text(changes: Sequence[Change]) -> str:
    said = [(f"{section}.{name}", value) for section, name, value in changes]
    return ", ".join(f"{place}: {'true' if value is True else value}" for place, value in said)


def memory(config: Config, model: str | None = None) -> Memory:
    """Count what a search of a configuration needs, from configs alone.

    Args:
        config: with all settings.
        model: of ``ttsnap costs`` in place of the configuration's.

    Raises:
        UserError: the configs of the model cannot be read.
    """
    from ttsnap.diffusion.memory import footprint
    from ttsnap.diffusion.published import ARCHITECTURES, Architecture

    sampling = config.sampling
    architecture = ARCHITECTURES[model] if model else Architecture.of(config.model)
    shapes = footprint(
        architecture, sampling.height, sampling.width, sampling.guidance_scale, sampling.frames
    )
    return Memory(config, shapes, verifier_bytes(config, config.search.reward))


def verifier_bytes(config: Config, name: str) -> float | None:
    """Weights of a reward in float32, in which it computes; None where they are not known."""
    reward = config.rewards[name]
    if reward.path is None:
        members = [verifier_bytes(config, member) for member in reward.members]
        return None if None in members else sum(filter(None, members))
    if Path(reward.path).exists():
        files = [file for _, file in weight_files(reward) if file.suffix == FILE]
        return 4.0 * sum(math.prod(shape) for file in files for shape in header(file).values())
    parameters = VERIFIERS.get(Path(reward.path).name)
    return None if parameters is None else 4 * parameters


def read_size(text: str) -> float:
    """Bytes that a text such as ``24GB`` says, of 10⁹.

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*GB", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"--gpu-memory {text}: expected such as 24GB")
    return float(match[1]) * 1e9
