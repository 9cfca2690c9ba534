"""A judge that looks for each of the things that a prompt's line in a file lists.

So UniGenBench (arXiv 2510.18701) judges: a chat model says of every point whether the image has it.
The words are those of the rubrics here, not the benchmark's.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from ttsnap.config import Text
from ttsnap.rewards.by_prompt import Line, line_of, read_lines
from ttsnap.rewards.judges.openai import Service, ServiceOptions
from ttsnap.rewards.judges.rubric import TOP, Rubric

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydantic import SecretStr


class ChecklistOptions(ServiceOptions):
    checks: Text = Field(
        description="JSON Lines, or JSON with an array: objects with prompt and checks, texts of "
        "what the image must show."
    )


class Checks(Line):
    """Of one prompt."""

    checks: Annotated[list[Text], Field(min_length=1)]


class Checklist(Service):
    """A `Reward`: the share of a prompt's checks that hold."""

    Options = ChecklistOptions

    def __init__(
        self, options: ChecklistOptions, key: SecretStr | None, name: str = "checklist"
    ) -> None:
        """See `Service`.

        Raises:
            UserError: there is no such file of checks.
        """
        place = f"rewards.{name}.options.checks"
        self.checks = read_lines(options.checks, place, Checks)
        super().__init__(options, key, name)
        self.scale = f"share of checks that hold, by {options.model}, 0 to 1"

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `RemoteReward.score`.

        Raises:
            UserError: as there, or if the file has no checks of a prompt.
        """
        for prompt in prompts:
            line_of(self.checks, prompt, self.name, self.options.checks)
        return super().score(images, prompts)

    def _grade(self, png: bytes, prompt: str, stop: threading.Event) -> float:
        rubric = Rubric(
            aspects={
                f"check_{number}": f"{TOP} if the image shows this, and 0 if it does not: {check}"
                for number, check in enumerate(self.checks[prompt].checks, start=1)
            }
        )
        grades = self.grades(rubric, lambda: self.graded(rubric, png, prompt), stop)
        return float(np.mean([grade > TOP / 2 for grade in grades.values()]))
