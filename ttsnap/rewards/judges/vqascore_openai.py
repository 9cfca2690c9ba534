"""VQAScore (arXiv 2404.01291) of a model behind a service that returns log-probabilities.

The protocol is OpenAI's, which vLLM speaks, too: one token is asked for, with the probabilities of
the likeliest ones in its place.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ttsnap.errors import UserError
from ttsnap.rewards.judges.openai import Service, ServiceOptions, image_part
from ttsnap.rewards.judges.vqascore import Asked

if TYPE_CHECKING:
    from pydantic import SecretStr

LIKELIEST = 20
"""Tokens whose probabilities are asked for, as many as services give."""


class RemoteVqaOptions(Asked, ServiceOptions):
    """Of the kind ``vqascore-openai``."""

    request: dict[str, Any] = Field(
        {"temperature": 0, "max_tokens": 1},
        description="Further fields of each request, as the service names them.",
    )


class RemoteVqaScore(Service):
    """A `Reward`: the probability of an answer; 0 where it is none of the likeliest tokens."""

    Options = RemoteVqaOptions

    def __init__(self, options: RemoteVqaOptions, key: SecretStr | None, name: str = "vqa") -> None:
        super().__init__(options, key, name)
        self.scale = f"probability of {options.answer} by {options.model}, 0 to 1"

    def _grade(self, png: bytes, prompt: str, stop: threading.Event) -> float:
        question = self.options.question.replace("{}", prompt)
        parts = [image_part(png), {"type": "text", "text": question}]
        fields = {
            "messages": [{"role": "user", "content": parts}],
            "logprobs": True,
            "top_logprobs": LIKELIEST,
        }
        choice = self.patiently(lambda: self.complete(fields), stop)
        first = choice.logprobs.content if choice.logprobs else None
        if not first or not first[0].top_logprobs:
            raise UserError(
                f"reward {self.name}: {self.options.model} returns no log-probabilities; take a "
                "service and a model that do, such as vLLM"
            )
        shares = {one.token: math.exp(one.logprob) for one in first[0].top_logprobs}
        return shares.get(self.options.answer, 0.0)
