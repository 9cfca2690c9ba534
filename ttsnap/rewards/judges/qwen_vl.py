"""A vision-language model on this machine as judge: Qwen2-VL, Qwen2.5-VL, Qwen3-VL.

It is asked for one whole number from 0 to 10, and the score is the mean of that number under the
model's own probabilities, as in G-Eval (arXiv 2303.16634, section 2): no text is sampled or parsed,
images that would get the same number still differ, and one image takes a single pass over its
prompt and one further token instead of the hundreds of a written answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ttsnap.rewards.judges.local import LocalChat, LocalOptions, asked
from ttsnap.rewards.judges.rubric import RubricOptions, read_rubric

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SURE = 0.5  # probability that the answer starts with a digit; below it, it is something else


class QwenOptions(RubricOptions, LocalOptions):
    """Of the kind ``qwen-vl``."""


class QwenJudge(LocalChat):
    """A `Reward` over a Qwen-VL-shaped model; a failed grade is NaN."""

    Options = QwenOptions

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: QwenOptions, name: str = "qwen"
    ) -> None:
        """See `LocalChat`.

        Raises:
            UserError: as there, or if the rubric cannot be read.
        """
        from transformers import GenerationConfig

        self.rubric, self.metric = read_rubric(options, name)
        self.scale = f"{self.metric}, 0 to 10, mean over the model's answers"
        super().__init__(model, tokenizer, processor, options, name)
        # A checkpoint brings its own way to sample text, which would change the probabilities.
        model.generation_config = GenerationConfig(max_new_tokens=2)
        self._digits = [tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Grade images.

        Args:
            images: (B, H, W, 3).
            prompts: B texts, one for each image.

        Returns:
            (B,), 0 to 10; NaN where the model answers with something else than a number, which the
            log explains.
        """
        size = self.options.batch_size
        scores = np.empty(len(images), np.float32)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            grades, certain = self._marks(images[part], prompts[part])
            scores[part], sure = grades.cpu().numpy(), certain.cpu().numpy()
            for index in start + np.flatnonzero(sure < SURE):
                log.warning(
                    "reward %s: image %d of %d has no grade: a number has only %.0f %% of the "
                    "probability as an answer",
                    *(self.name, index, len(images), 100 * sure[index - start]),
                )
        return scores

    def _messages(self) -> list[Mapping[str, Any]]:
        return asked(self.rubric.question(self.metric))

    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        return self._marks(images, prompts)[0]

    def _marks(
        self, images: NDArray[np.uint8], prompts: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores, NaN where not sure, and the probability that the answer starts with a digit.

        The answer 10 is 1 followed by 0, as Qwen's tokenizers split numbers into digits.
        """
        first, second = self._logits(images, prompts).softmax(-1)[..., self._digits]
        sure = first.sum(-1)
        mean = first @ torch.arange(10.0, device=first.device) + 9 * first[:, 1] * second[:, 0]
        return torch.where(sure < SURE, torch.nan, mean / sure), sure

    @torch.inference_mode()
    def _logits(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        """Logits (2, B, vocabulary) of the answer's first token, and of the one after a 1."""
        answer = self.model.generate(
            **self._inputs(images, prompts),
            prefix_allowed_tokens_fn=lambda row, tokens: [self._digits[1]],
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack(answer.logits).float()
