"""Rewards behind any service that speaks OpenAI's protocol: OpenAI, vLLM, OpenRouter, Ollama."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, SecretStr, ValidationError

from ttsnap.config import Text
from ttsnap.rewards.judges.rubric import Rubric
from ttsnap.rewards.judges.service import (
    Address,
    JudgeOptions,
    Refused,
    RemoteJudge,
    RemoteOptions,
    RemoteReward,
    retry_after,
)


class ServiceOptions(RemoteOptions):
    """Of every reward that speaks the protocol."""

    base_url: Address = Field(
        "https://api.openai.com/v1", description="Of any service that speaks OpenAI's protocol."
    )
    key_env: Text | None = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key; null: the service needs none.",
    )


class OpenAIOptions(JudgeOptions, ServiceOptions):
    """Of the kind ``openai``."""


class _Part(BaseModel):
    """Of an answer in parts; those of other types hold thoughts."""

    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part | str] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        parts = [_Part(text=part) if isinstance(part, str) else part for part in self.content]
        return "".join(part.text or "" for part in parts if part.type in ("text", "output_text"))


class Likely(BaseModel):
    """A token that could have come, and the logarithm of its probability."""

    token: str
    logprob: float


class _Token(BaseModel):
    top_logprobs: list[Likely] = []


class _Tokens(BaseModel):
    content: list[_Token] | None = None


class Choice(BaseModel):
    """An answer; ``logprobs`` is there only if it was asked for, and the service can."""

    message: _Message
    finish_reason: str | None = None
    logprobs: _Tokens | None = None


class _Completion(BaseModel):
    choices: Annotated[list[Choice], Field(min_length=1)]


class _Error(BaseModel):
    code: int


class _Complaint(BaseModel):
    """What some services send with status 200: the error and its true status."""

    error: _Error


class Service(RemoteReward):
    """A `Reward` that speaks the protocol for chat completions of OpenAI, vLLM, OpenRouter, Ollama.

    Protocol: https://platform.openai.com/docs/api-reference/chat/create
    """

    def __init__(self, options: Any, key: SecretStr | None, name: str) -> None:
        super().__init__(options, key, name)
        if key is not None:
            self.http.headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._url = options.base_url.rstrip("/") + "/chat/completions"

    def complete(self, fields: Mapping[str, Any]) -> Choice:
        """The answer to a request with these fields, beside the model and those of the options.

        Raises:
            TryLater, Refused, Failed, UserError: as `RemoteJudge.ask`.
        """
        whole = {"model": self.options.model, **fields, **self.options.request}
        with self.connected():
            response = self.http.post(self._url, json=whole)
        if response.status_code != 200:
            wait = retry_after(response.headers)
            raise self.refusal(response.status_code, response.text, wait)
        try:
            choice = _Completion.model_validate_json(response.content).choices[0]
        except ValidationError:
            raise self._complaint(response.text) from None
        if choice.message.refusal:
            raise Refused(f"refused: {self.quote(choice.message.refusal)}")
        return choice

    def graded(self, rubric: Rubric, png: bytes, prompt: str) -> str:
        """What the model says of an image by a rubric, in structured output.

        Raises:
            TryLater, Refused, Failed, UserError: as `RemoteJudge.ask`.
        """
        schema = {"name": "grades", "strict": True, "schema": rubric.answer_schema}
        messages = [
            {"role": "system", "content": rubric.instruction},
            {"role": "user", "content": [{"type": "text", "text": prompt}, image_part(png)]},
        ]
        form = {"type": "json_schema", "json_schema": schema}
        choice = self.complete({"response_format": form, "messages": messages})
        if choice.finish_reason not in (None, "stop"):
            raise Refused(f"no whole answer, ended by {self.quote(choice.finish_reason)}")
        return choice.message.text

    def _complaint(self, text: str) -> Exception:
        """What to raise for an answer of status 200 that is no completion."""
        try:
            return self.refusal(_Complaint.model_validate_json(text).error.code, text)
        except ValidationError:
            return Refused(f"no chat completion: {self.quote(text)}")


class OpenAIJudge(RemoteJudge, Service):
    """A judge by structured output."""

    Options = OpenAIOptions

    def __init__(self, options: OpenAIOptions, key: SecretStr | None, name: str = "openai") -> None:
        super().__init__(options, key, name)

    def ask(self, png: bytes, prompt: str) -> str:
        """See `RemoteJudge.ask`."""
        return self.graded(self.rubric, png, prompt)


def image_part(png: bytes) -> dict[str, Any]:
    """Of a message, with an image."""
    url = f"data:image/png;base64,{b64encode(png).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
