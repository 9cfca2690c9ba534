"""Soft-TIFA (GenEval 2, arXiv 2512.16853): how surely the questions of a prompt are answered right.

The questions are those of the prompt's line in a file, under the key ``vqa_list`` as in GenEval 2's
own, pairs of question and answer. The file of prompts itself can have them: its other
keys are left out. Read for it: ``evaluation.py`` of https://github.com/facebookresearch/GenEval2: a
question ends in "Answer in one word.", an answer's probability is that of the first tokens of its
spellings, with and without a space and a capital, numbers in digits too; means are arithmetic, or
geometric for whole prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from ttsnap.config import Text
from ttsnap.rewards.by_prompt import Line, line_of, read_lines
from ttsnap.rewards.judges.local import LocalChat, LocalOptions, asked

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pairs = Annotated[list[tuple[Text, Text]], Field(min_length=1)]
"""Questions with their answers."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LEAST = 1e-12  # a probability of none would leave nothing of a geometric mean


class SoftTifaOptions(LocalOptions):
    questions: Text = Field(
        description="JSON Lines, or JSON with an array: objects with prompt and vqa_list, which "
        "has pairs [question, answer]."
    )
    mean: Literal["geometric", "arithmetic"] = Field(
        "geometric",
        description="Of the answers' probabilities: geometric asks that all of a prompt is right, "
        "arithmetic how much of it.",
    )


class Questions(Line):
    """Of one prompt."""

    vqa_list: Pairs


class SoftTifa(LocalChat):
    """A `Reward`: the mean probability of the right answers to the questions about a prompt."""

    Options = SoftTifaOptions

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, options: SoftTifaOptions, name: str
    ) -> None:
        """See `LocalChat`.

        Raises:
            UserError: as there, or if there is no such file of questions.
        """
        place = f"rewards.{name}.options.questions"
        lines = read_lines(options.questions, place, Questions)
        self.questions = {prompt: line.vqa_list for prompt, line in lines.items()}
        self.scale = f"{options.mean} mean of the probabilities of right answers, 0 to 1"
        super().__init__(model, tokenizer, processor, options, name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`.

        Raises:
            UserError: the file has no questions about a prompt.
        """
        for prompt in prompts:
            line_of(self.questions, prompt, self.name, self.options.questions)
        return super().score(images, prompts)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; for as many questions as the file has about a prompt on average."""
        from ttsnap.diffusion.flops import tflops

        black = np.zeros((1, height, width, 3), np.uint8)
        one = tflops(lambda: self._next(black, [_asked("")]))
        return one * float(np.mean([len(pairs) for pairs in self.questions.values()]))

    def _messages(self) -> list[Mapping[str, Any]]:
        return asked()

    def _scores(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> torch.Tensor:
        pairs = [pair for prompt in prompts for pair in self.questions[prompt]]
        counts = [len(self.questions[prompt]) for prompt in prompts]
        seen = np.repeat(np.arange(len(images)), counts)
        size = self.options.batch_size
        rows = []
        for start in range(0, len(pairs), size):
            part = slice(start, start + size)
            found = self._next(images[seen[part]], [_asked(text) for text, _ in pairs[part]])
            for row, (_, answer) in zip(found.softmax(-1), pairs[part], strict=True):
                rows.append(row[self._first_tokens(answer)].sum())
        means = [
            some.clamp(min=LEAST).log().mean().exp()
            if self.options.mean == "geometric"
            else some.mean()
            for some in torch.stack(rows).split(counts)
        ]
        return torch.stack(means)

    def _first_tokens(self, answer: str) -> list[int]:
        return sorted({self._encode(text)[0] for text in spellings(answer)})


def spellings(answer: str) -> list[str]:
    """How a model may write an answer."""
    answer = answer.strip()
    texts = [answer]
    if answer.lower() in NUMBERS:
        texts.append(str(NUMBERS.index(answer.lower())))
    elif answer in map(str, range(len(NUMBERS))):
        texts.append(NUMBERS[int(answer)])
    if answer.lower() in ("yes", "no"):
        texts = [answer.lower()]
    cased = [one for text in texts for one in (text, text.capitalize())]
    return list(dict.fromkeys(f"{space}{text}" for text in cased for space in ("", " ")))


def _asked(question: str) -> str:
    dot = "" if question.rstrip().endswith((".", "?")) else "."
    return f"{question}{dot} Answer in one word."
