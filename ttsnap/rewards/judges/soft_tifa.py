"""Soft-TIFA (GenEval 2, arXiv 2512.16853): how surely the questions of a prompt are answered right.

The questions are those of the prompt's line in a file, under the key ``vqa_list`` as in GenEval 2's
own, pairs of question and answer. The file of prompts itself can have them: its other
keys are left out. Of the original the repository itself could not be read, a fork of its
``evaluation.py`` was (github.com/Yiran-SUSTech/GenEval2-Yiran): a question ends in "Answer in one
word.", an answer's probability is that of the first tokens of its spellings, with and without a
space and a capital, numbers in digits too; means are arithmetic, or geometric for whole prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ttsnap.config import Text
from ttsnap.errors import UserError
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


class _Line(BaseModel):
    model_config = ConfigDict(strict=True)
    prompt: Text
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
        self.questions = read_questions(options.questions, f"rewards.{name}.options.questions")
        self.scale = f"{options.mean} mean of the probabilities of right answers, 0 to 1"
        super().__init__(model, tokenizer, processor, options, name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`.

        Raises:
            UserError: the file has no questions about a prompt.
        """
        for prompt in prompts:
            if prompt not in self.questions:
                raise UserError(
                    f"reward {self.name}: {self.options.questions} has no questions about "
                    f"{json.dumps(prompt[:60], ensure_ascii=False)}"
                )
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


def read_questions(file: str, place: str) -> dict[str, Pairs]:
    """Questions and answers by prompt.

    Raises:
        UserError: the file cannot be read, or a line of it is something else; ``place`` names the
            setting.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text in UTF-8"
        raise UserError(f"{place}: {file}: {reason}") from None
    try:
        if text.lstrip().startswith("["):
            lines = TypeAdapter(list[_Line]).validate_json(text)
        else:
            lines = [_Line.model_validate_json(line) for line in text.split("\n") if line.strip()]
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"])) or "a line"
        raise UserError(f"{place}: {file}: {where}: {detail['msg']}") from None
    if not lines:
        raise UserError(f"{place}: {file}: has no questions")
    return {line.prompt: line.vqa_list for line in lines}


def _asked(question: str) -> str:
    dot = "" if question.rstrip().endswith((".", "?")) else "."
    return f"{question}{dot} Answer in one word."
