"""Graders that learnt five words (Q-Align, arXiv 2312.17090): the mean of the words' values.

Read for it: ``scorer.py`` of https://github.com/Q-Future/Q-Align: the start of an answer is given,
the probabilities of the five words are normalised among themselves, and excellent counts 1, bad 0.
The published networks (Q-Align, OneAlign, DeQA-Score) are mPLUG-Owl2, which transformers does not
have and whose own code this project does not run; what is graded by here is a Qwen-VL-shaped model,
finetuned in that way or as it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from ttsnap.errors import UserError
from ttsnap.rewards.judges.local import LocalChat, LocalOptions, asked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORDS = {"excellent": 1.0, "good": 0.75, "fair": 0.5, "poor": 0.25, "bad": 0.0}


class QAlignOptions(LocalOptions):
    aspect: Literal["quality", "aesthetics"] = Field(
        "quality", description="quality or aesthetics: what is graded."
    )


class QAlign(LocalChat):
    """A `Reward` that looks at the image alone: the mean value of five graded words."""

    Options = QAlignOptions

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: QAlignOptions, name: str
    ) -> None:
        """See `LocalChat`.

        Raises:
            UserError: as there, or if the tokenizer begins two of the words alike.
        """
        super().__init__(model, tokenizer, processor, options, name)
        self.scale = f"{options.aspect}, 0 (bad) to 1 (excellent)"
        self._tail = [*self._tail, *self._encode(f"The {options.aspect} of the image is")]
        self._words = [self._encode(f" {word}")[0] for word in WORDS]
        if len(set(self._words)) < len(WORDS):
            raise UserError(f"reward {name}: the tokenizer does not know {', '.join(WORDS)} apart")

    def _messages(self) -> list[Mapping[str, Any]]:
        return asked()

    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        question = f"How would you rate the {self.options.aspect} of this image?"
        logits = self._next(images, [question] * len(images))[:, self._words]
        return logits.softmax(-1) @ torch.tensor(list(WORDS.values()), device=logits.device)
