"""UnifiedReward (arXiv 2503.05236), version 2.0: the grades in the text that a chat model writes.

Read for it: ``inference_qwen/UnifiedReward-2.0-inference`` of
https://github.com/CodeGoat24/UnifiedReward. The model is a finetuned Qwen-VL. Asked about a
picture and its caption in the words that it was trained on, it writes a line for each of three
aspects, such as ``Alignment Score (1-5): 2.69``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field, PositiveInt

from ttsnap.config import Text
from ttsnap.rewards.judges.local import LocalChat, LocalOptions, asked, read_instruction

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

PROMPT = "{prompt}"
SHOWN = 200  # characters of what a model wrote that a message quotes
Aspect = Literal["alignment", "coherence", "style"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
_GRADE = re.compile(
    r"(alignment|coherence|style)\s+score\s*(?:\(1\s*-\s*5\))?[\s:*]*(\d+(?:\.\d+)?)", re.IGNORECASE
)


class UnifiedOptions(LocalOptions):
    instruction: Text = Field(
        description=f"File with the question that the model was trained on, with {PROMPT} for the "
        "prompt: problem in point_score_ACS_image_generation.py."
    )
    metric: Literal["mean", "alignment", "coherence", "style"] = Field(
        "mean", description="mean, alignment, coherence or style: which grade is the score."
    )
    max_tokens: PositiveInt = Field(128, description="Tokens that are written at most.")


class UnifiedReward(LocalChat):
    """A `Reward`: a grade, or the mean of three, that the model writes; NaN where it does not."""

    Options = UnifiedOptions

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: UnifiedOptions, name: str
    ) -> None:
        """See `LocalChat`.

        Raises:
            UserError: as there, or if the instruction cannot be read or has no place for a prompt.
        """
        from transformers import GenerationConfig

        place = f"rewards.{name}.options.instruction: {options.instruction}"
        self._asked = read_instruction(options.instruction, place, PROMPT)
        super().__init__(model, tokenizer, processor, options, name)
        # Nothing of the way to sample that a checkpoint brings with it, but where a text ends.
        model.generation_config = GenerationConfig(
            max_new_tokens=options.max_tokens,
            eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.scale = f"{options.metric} of the grades that it writes, 1 to 5"

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Grade images.

        Args:
            images: (B, H, W, 3).
            prompts: B texts, one for each image.

        Returns:
            (B,), 1 to 5; NaN where a grade is missing in what was written, which the log shows.
        """
        size = self.options.batch_size
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        texts = [text for part in parts for text in self.write(images[part], prompts[part])]
        wanted = ASPECTS if self.options.metric == "mean" else (self.options.metric,)
        scores = np.full(len(images), np.nan, np.float32)
        for index, text in enumerate(texts):
            grades = read_grades(text)
            if set(wanted) <= grades.keys():
                scores[index] = np.mean([grades[aspect] for aspect in wanted])
                continue
            words = " ".join(text.split())[:SHOWN]
            place = f"image {index} of {len(images)}"
            log.warning("reward %s: %s has no grade in: %s", self.name, place, words)
        return scores

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; as if `max_tokens` were written, the most that it can cost."""
        from ttsnap.diffusion.flops import tflops

        black = np.zeros((1, height, width, 3), np.uint8)
        return tflops(lambda: self._generate(black, [""], self.options.max_tokens))

    def write(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> list[str]:
        """What the model writes about images (B, H, W, 3) and B prompts, its likeliest tokens."""
        tokens = self._generate(images, prompts)
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    def _messages(self) -> list[Mapping[str, Any]]:
        return asked()

    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(self.score(images, prompts))

    @torch.inference_mode()
    def _generate(
        self, images: NDArray[np.uint8], prompts: Sequence[str], least: int = 0
    ) -> torch.Tensor:
        inputs = self._inputs(images, [self._asked.replace(PROMPT, one) for one in prompts])
        found = self.model.generate(**inputs, min_new_tokens=least)
        return found[:, inputs["input_ids"].shape[1] :]


def read_grades(text: str) -> dict[str, float]:
    """Grades from 1 to 5 by aspect in what the model wrote; the last of each counts."""
    found = {name.lower(): float(grade) for name, grade in _GRADE.findall(text)}
    return {name: grade for name, grade in found.items() if 1 <= grade <= 5}
