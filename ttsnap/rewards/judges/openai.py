"""Judges behind any service that speaks OpenAI's protocol: OpenAI, vLLM, OpenRouter, Ollama."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, ValidationError

from ttsnap.config import Text
from ttsnap.rewards.judges.service import (
    Address,
    JudgeOptions,
    Refused,
    RemoteJudge,
    retry_after,
)


class OpenAIOptions(JudgeOptions):
    base_url: Address = Field(
        "https://api.openai.com/v1", description="Of any service that speaks OpenAI's protocol."
    )
    key_env: Text | None = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key; null: the service needs none.",
    )


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


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class _Error(BaseModel):
    code: int


class _Complaint(BaseModel):
    """What some services send with status 200: the error and its true status."""

    error: _Error


class OpenAIJudge(RemoteJudge):
    """Chat completions with structured output, of OpenAI, vLLM, OpenRouter, Ollama and others.

    Protocol: https://platform.openai.com/docs/api-reference/chat/create
    """

    Options = OpenAIOptions

    def __init__(self, options: OpenAIOptions, key: SecretStr | None, name: str = "openai") -> None:
        super().__init__(options, key, name)
        if key is not None:
            self.http.headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._url = options.base_url.rstrip("/") + "/chat/completions"
        schema = {"name": "grades", "strict": True, "schema": self.rubric.answer_schema}
        self._fields = {
            "model": options.model,
            "response_format": {"type": "json_schema", "json_schema": schema},
            **options.request,
        }

    def ask(self, png: bytes, prompt: str) -> str:
        image = {"url": f"data:image/png;base64,{b64encode(png).decode()}"}
        parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": image}]
        messages = [
            {"role": "system", "content": self.rubric.instruction},
            {"role": "user", "content": parts},
        ]
        with self.connected():
            response = self.http.post(self._url, json={**self._fields, "messages": messages})
        if response.status_code != 200:
            wait = retry_after(response.headers)
            raise self.refusal(response.status_code, response.text, wait)
        try:
            choice = _Completion.model_validate_json(response.content).choices[0]
        except ValidationError:
            raise self._complaint(response.text) from None
        if choice.message.refusal:
            raise Refused(f"refused: {self.quote(choice.message.refusal)}")
        if choice.finish_reason not in (None, "stop"):
            raise Refused(f"no whole answer, ended by {self.quote(choice.finish_reason)}")
        return choice.message.text

    def _complaint(self, text: str) -> Exception:
        """What to raise for an answer of status 200 that is no completion."""
        try:
            return self.refusal(_Complaint.model_validate_json(text).error.code, text)
        except ValidationError:
            return Refused(f"no chat completion: {self.quote(text)}")
