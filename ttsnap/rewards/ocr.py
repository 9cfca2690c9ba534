"""How well the text that a prompt quotes can be read in the picture.

What is quoted, in straight or curly double quotes, is compared with what an OCR model of
transformers reads (TrOCR, arXiv 2109.10282, and other models of its shape, an image encoder with a
text decoder): 1 - the edit distance over the length of the longer text, both in small letters with
single spaces. TrOCR reads one line, and sees the whole picture squeezed into its square: it is good
for pictures of a sign or a word, not of a page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt

from ttsnap.config import Settings
from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Preparation
from ttsnap.rewards.stock import load_model, load_processor, load_tokenizer, model_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')


class OcrOptions(Settings):
    max_tokens: PositiveInt = Field(64, description="Tokens that are read at most.")
    batch_size: PositiveInt = Field(16, description="Images read at once.")


class OcrReward:
    """A `Reward` over an encoder-decoder of transformers that reads text in images."""

    Options = OcrOptions
    scale = "1 - edit distance of read and quoted text over the longer length, 0 to 1"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prepare: Preparation,
        options: OcrOptions,
        name: str = "ocr",
    ) -> None:
        self.name = name
        self.options = options
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.prepare = prepare

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "ocr",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load model, tokenizer and image processor from ``settings.path``, in float32.

        Raises:
            UserError: if one of the three is missing, or is not of such a model.
        """
        from transformers import AutoImageProcessor, VisionEncoderDecoderModel

        options = read_options(OcrOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        if checkpoint is not None:
            raise UserError(f"{checkpoint}: reward {name} cannot be finetuned")
        if (kind := model_type(path, revision)) != "vision-encoder-decoder":
            raise UserError(f"{path}: expected an image encoder with a text decoder, found {kind}")
        model = load_model(VisionEncoderDecoderModel, path, revision)
        processor = load_processor(AutoImageProcessor, path, revision, backend="pil")
        tokenizer = load_tokenizer(path, revision)
        model = model.to(torch_device(device))
        return cls(model, tokenizer, Preparation.of(processor, path), options, name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`.

        Raises:
            UserError: a prompt quotes nothing.
        """
        wanted = [self._quoted(prompt) for prompt in prompts]
        size = self.options.batch_size
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        read = [text for part in parts for text in self.read(part)]
        return np.array(
            [likeness(text, target) for text, target in zip(read, wanted, strict=True)], np.float32
        )

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; as if `max_tokens` were read, the most that it can cost."""
        from ttsnap.diffusion.flops import tflops

        black = np.zeros((1, height, width, 3), np.uint8)
        return tflops(lambda: self._generate(black, self.options.max_tokens))

    def read(self, images: NDArray[np.uint8]) -> list[str]:
        """What the model reads in each image (B, H, W, 3), by greedy search."""
        tokens = self._generate(images)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    @torch.inference_mode()
    def _generate(self, images: NDArray[np.uint8], least: int = 0) -> torch.Tensor:
        return self.model.generate(
            self.prepare(images, self.model.device),
            max_new_tokens=self.options.max_tokens,
            min_new_tokens=least,
            num_beams=1,
            do_sample=False,
        )

    def _quoted(self, prompt: str) -> str:
        found = [next(filter(None, match.groups())) for match in _QUOTED.finditer(prompt)]
        if not found:
            raise UserError(f"reward {self.name}: prompt {prompt[:60]!r} quotes no text to be read")
        return " ".join(found)


def likeness(read: str, wanted: str) -> float:
    """1 for equal texts, 0 where no letter is right; case and spaces do not count."""
    first, second = (" ".join(text.lower().split()) for text in (read, wanted))
    longer = max(len(first), len(second))
    return 1 - edits(first, second) / longer if longer else 1.0


def edits(first: str, second: str) -> int:
    """The least insertions, deletions and replacements that make one text of the other."""
    row = list(range(len(second) + 1))
    for count, letter in enumerate(first, start=1):
        corner, row[0] = row[0], count
        for index, other in enumerate(second, start=1):
            cheapest = min(row[index] + 1, row[index - 1] + 1, corner + (letter != other))
            corner, row[index] = row[index], cheapest
    return row[-1]
