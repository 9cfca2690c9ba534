"""Gemini as judge, through google-genai."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, ValidationError

from ttsnap.config import Text
from ttsnap.errors import UserError
from ttsnap.rewards.judges.service import (
    Address,
    JudgeOptions,
    Refused,
    RemoteJudge,
    retry_after,
)


class GeminiOptions(JudgeOptions):
    base_url: Address | None = Field(None, description="Of the service; null: Google's.")
    key_env: Text = Field("GEMINI_API_KEY", description="Environment variable that holds the key.")


class GeminiJudge(RemoteJudge):
    """Gemini through google-genai."""

    Options = GeminiOptions

    def __init__(self, options: GeminiOptions, key: SecretStr, name: str = "gemini") -> None:
        super().__init__(options, key, name)
        try:
            from google import genai
        except ImportError:
            raise UserError(
                f"rewards.{name}.kind: gemini needs google-genai: pip install 'ttsnap[judges]'"
            ) from None
        try:
            self._config = genai.types.GenerateContentConfig.model_validate(
                {
                    "system_instruction": self.rubric.instruction,
                    "response_mime_type": "application/json",
                    "response_json_schema": self.rubric.answer_schema,
                    "automatic_function_calling": {"disable": True},
                    **options.request,
                }
            )
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            text = f"rewards.{name}.options.request.{place}: {error.errors()[0]['msg']}"
            raise UserError(text) from None
        self._client = genai.Client(
            api_key=key.get_secret_value(),
            vertexai=False,
            http_options=genai.types.HttpOptions(
                base_url=options.base_url,
                timeout=round(options.timeout * 1000),  # milliseconds
                httpx_client=self.http,
            ),
        )

    def ask(self, png: bytes, prompt: str) -> str:
        from google.genai import errors, types

        image = types.Part.from_bytes(data=png, mime_type="image/png")
        content = types.Content(role="user", parts=[types.Part.from_text(text=prompt), image])
        try:
            with self.connected():
                response = self._client.models.generate_content(
                    model=self.options.model,
                    contents=content,
                    config=self._config,
                )
        except errors.APIError as error:
            wait = max(retry_after(error.response.headers), _retry_delay(error.details))
            raise self.refusal(error.code, f"{error.status} {error.message}", wait) from None
        except ValueError as error:  # of pydantic, or their own for what is no JSON
            raise Refused(f"no answer of Gemini: {self.quote(error)}") from None
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason:
            raise Refused(f"refused: {feedback.block_reason.value}")
        reason = response.candidates[0].finish_reason if response.candidates else None
        if reason not in (None, types.FinishReason.STOP):
            raise Refused(f"no whole answer, ended by {reason.value}")
        return response.text or ""


def _retry_delay(details: object) -> float:
    """Seconds that google.rpc.RetryInfo in the details of an error asks to wait."""
    found = re.search(r"'retryDelay': '(\d+(?:\.\d+)?)s'", str(details))
    return float(found[1]) if found else 0.0
