"""What all rewards that are a neural network have in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from ttsnap.config import Settings
from ttsnap.rewards.pixels import Letterbox, Preparation

BATCH = 64

Precision = Literal["float32", "tf32", "bfloat16"]


class ModelOptions(Settings):
    """Of every reward that is a neural network in float32."""

    precision: Precision = Field(
        "float32",
        description="float32, tf32 or bfloat16: of matrix products where an image is seen, in "
        "scores and in finetuning; weights stay in float32. What is less is faster on a GPU, and "
        "ranks a little differently.",
    )


class ModelReward(ABC):
    """A `TrainableReward` up to its network: batches, the memory of texts, the check of scores."""

    Options: ClassVar[type[Settings]]
    tower: str
    precision: Precision = "float32"

    def __init__(
        self, name: str, scale: str, module: Any, prepare: Preparation | Letterbox
    ) -> None:
        self.name = name
        self.scale = scale
        self.module: Any = module.eval().requires_grad_(False)
        self.prepare = prepare
        self._texts: dict[str, torch.Tensor] = {}
        self._warned = False

    def at(self, options: ModelOptions) -> Self:
        """This reward, computing in the precision that the options ask for."""
        self.precision = options.precision
        return self

    @contextmanager
    def products(self) -> Iterator[None]:
        """Where matrix products are of the precision asked for; tf32 makes a difference on GPUs.

        What comes after, a last layer or a cosine, is for float32: eight bits would tell few
        scores apart.
        """
        if self.precision == "tf32":
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
            return
        rough = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rough):
            yield

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @torch.no_grad()
    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        texts = self.encode_texts(prompts)
        scores = [
            self.forward(self.pixel_values(images[start : start + BATCH]), rows)
            for start, rows in zip(range(0, len(images), BATCH), texts.split(BATCH), strict=True)
        ]
        values = torch.cat(scores).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise FloatingPointError(
                f"reward {self.name}: image {bad[0]} of {len(images)} scores {values[bad[0]]}"
            )
        return values

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; resizing is not counted."""
        from ttsnap.diffusion.flops import tflops

        pixels = self.pixel_values(np.zeros((1, height, width, 3), np.uint8))
        text = self._blank()
        with torch.no_grad():
            return tflops(lambda: self.forward(pixels, text))

    def pixel_values(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.pixel_values`; (B, 3, h, w) float32, h and w those of the model."""
        return self.prepare(images, self.device)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """See `TrainableReward.encode_texts`.

        Warns once for the reward if a text is longer than the model reads.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            self._texts.update(zip(batch, self._encode(batch), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    @abstractmethod
    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> torch.Tensor:
        """One row per text."""

    def _blank(self) -> torch.Tensor:
        """The row of a text that is as good as any."""
        return self._encode([""])

    def _warn_if_cut(self, texts: Sequence[str], tokenizer: Any, limit: int) -> None:
        if self._warned:
            return
        lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
        if max(lengths) > limit:
            self._warned = True
            text = texts[int(np.argmax(lengths))]
            warnings.warn(
                f"reward {self.name} reads {limit} tokens of a prompt and no more; one has "
                f"{max(lengths)}: {text[:60]!r}…",
                stacklevel=2,
            )
