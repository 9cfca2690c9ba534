"""VQAScore (arXiv 2404.01291): the probability that a model says Yes, the image shows the prompt.

Read for it: ``qwen2vl_model.py`` of https://github.com/linzhiqiu/t2v_metrics, whose question is
the default here. There the probability is that of ``generate``'s processed scores, so that a
repetition penalty in a checkpoint's generation config counts; here it is the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ttsnap.config import Settings, Text
from ttsnap.rewards.judges.local import LocalChat, LocalOptions, asked

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class Asked(Settings):
    """What is asked, and the answer that counts."""

    question: Annotated[Text, Field(pattern=r"\{\}")] = Field(
        'Does this image show "{}"?', description="What is asked; the prompt takes the place of {}."
    )
    answer: Text = Field("Yes", description="Answer whose first token's probability is the score.")


class VqaOptions(Asked, LocalOptions):
    """Of the kind ``vqascore``."""


class VqaScore(LocalChat):
    """A `Reward`: the probability of an answer to a question about image and prompt."""

    Options = VqaOptions

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: VqaOptions, name: str = "vqa"
    ) -> None:
        """See `LocalChat`."""
        super().__init__(model, tokenizer, processor, options, name)
        self.scale = f"probability of {options.answer}, 0 to 1"
        self._answer = self._encode(options.answer)[0]

    def _messages(self) -> list[Mapping[str, Any]]:
        return asked()

    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        questions = [self.options.question.replace("{}", prompt) for prompt in prompts]
        return self._next(images, questions).softmax(-1)[:, self._answer]
