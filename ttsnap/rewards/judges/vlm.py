"""Vision-language models behind an API as judges: OpenAI-compatible endpoints, and Gemini.

A judge looks at (image, prompt) and grades six aspects from 0 to 10 (see `grades`); one of them is
the score. What fails for one image gives it NaN, and one line of the log says why. What would fail
for every image, such as a wrong key, is a `UserError` at once.
"""

from __future__ import annotations

import email.utils
import logging
import os
import random
import re
import threading
import time
import weakref
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import httpx2
import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, SecretStr, ValidationError

from ttsnap.config import Settings, Text
from ttsnap.errors import UserError
from ttsnap.rewards.judges.grades import INSTRUCTION, Grades, Metric, read_grades
from ttsnap.rewards.options import read_options, refuse_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; a server that asks for a longer wait is not waited for
SHOWN = 200  # characters of a server's words that a message quotes
BUSY = {408, 409, 425, 429}  # as are all from 500
NO_CREDIT = ("insufficient_quota",)  # comes with 429, but no wait helps
FILTERED = ("content_filter", "content_policy_violation")  # a 400 about one prompt or image

Address = Annotated[str, Field(pattern=r"^https?://")]


class JudgeOptions(Settings):
    """Of every judge behind an API."""

    model: Text = Field(description="Model, as the service names it.")
    metric: Metric = Field("overall_score", description="Graded aspect that is the score.")
    concurrency: PositiveInt = Field(8, description="Requests under way at once.")
    timeout: PositiveFloat = Field(
        60.0, description="Seconds without a word from the server that end an attempt."
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        5, description="Further attempts where a later one may succeed."
    )
    retry_delay: PositiveFloat = Field(
        1.0, description="Seconds before the first retry; doubles with each, plus jitter."
    )
    request: dict[str, Any] = Field(
        {"temperature": 0, "seed": 0},
        description="Further fields of each request, as the service names them.",
    )


class OpenAIOptions(JudgeOptions):
    base_url: Address = Field(
        "https://api.openai.com/v1", description="Of any service that speaks OpenAI's protocol."
    )
    key_env: Text | None = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key; null: the service needs none.",
    )


class GeminiOptions(JudgeOptions):
    base_url: Address | None = Field(None, description="Of the service; null: Google's.")
    key_env: Text = Field("GEMINI_API_KEY", description="Environment variable that holds the key.")


class Failed(Exception):
    """This image gets no grade; the message says why."""


class TryLater(Failed):
    """There is no grade yet.

    Attributes:
        wait: seconds that the server asked for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class RemoteJudge(ABC):
    """A `Reward` that asks a service."""

    Options: ClassVar[type[JudgeOptions]]

    def __init__(self, options: Any, key: SecretStr | None, name: str) -> None:
        self.name = name
        self.scale = f"{options.metric} by {options.model}, 0 to 10"
        self.options = options
        self._key = key
        self._http = httpx2.Client(
            timeout=options.timeout, limits=httpx2.Limits(max_connections=options.concurrency)
        )
        weakref.finalize(self, self._http.close)

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "judge",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Prepare what ``settings.options`` ask for; nothing is sent yet.

        Raises:
            UserError: if an option is wrong, or the key or a package is missing.
        """
        options: Any = read_options(cls.Options, settings, name)
        refuse_weights(settings, name, checkpoint)
        return cls(options, _key(options.key_env, name), name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Ask for a grade of each image, several at once.

        Args:
            images: (B, H, W, 3).
            prompts: B texts, one for each image.

        Returns:
            (B,), 0 to 10; NaN where there is no grade, and the log says why.

        Raises:
            UserError: if the service refuses such requests altogether.
        """
        stop = threading.Event()

        def grade(index: int) -> float:
            try:
                return self._grade(images[index], prompts[index], stop)
            except UserError:
                stop.set()
                raise
            except Failed as error:
                if not stop.is_set():
                    place = f"image {index} of {len(images)}"
                    log.warning("reward %s: %s has no grade: %s", self.name, place, error)
                return np.nan

        with ThreadPoolExecutor(self.options.concurrency) as pool:
            try:
                return np.fromiter(pool.map(grade, range(len(images))), np.float32, len(images))
            finally:
                stop.set()

    def tflops(self, height: int, width: int) -> float:
        """None: they are computed elsewhere, and paid for in money."""
        return 0.0

    def _grade(self, image: NDArray[np.uint8], prompt: str, stop: threading.Event) -> float:
        png = BytesIO()
        Image.fromarray(image).save(png, "PNG")
        answer = self._ask_patiently(png.getvalue(), prompt, stop)
        try:
            grades = read_grades(answer)
        except ValueError as error:
            raise Failed(f"malformed answer: {self._quote(error)}") from None
        log.debug("reward %s: %s", self.name, grades)
        return getattr(grades, self.options.metric).score

    def _ask_patiently(self, png: bytes, prompt: str, stop: threading.Event) -> str:
        """`_ask`, with retries after exponential back-off with jitter."""
        attempts = self.options.retries + 1
        for attempt in range(attempts):
            if stop.is_set():
                raise Failed("stopped")
            try:
                return self._ask(png, prompt)
            except TryLater as error:
                last = error
            if last.wait > PATIENCE:
                raise Failed(f"{last}; it asks to wait {last.wait:.0f} s")
            if attempt + 1 < attempts:
                delay = self.options.retry_delay * 2**attempt * random.uniform(1, 1.5)
                stop.wait(max(delay, last.wait))
        raise Failed(f"{last}; {attempts} attempts")

    @abstractmethod
    def _ask(self, png: bytes, prompt: str) -> str:
        """The model's answer, which should be `Grades` as JSON.

        Raises:
            TryLater: the service is busy or cannot be reached.
            Failed: this image gets no answer.
            UserError: no image would get one.
        """

    def _refusal(self, status: int, words: str, wait: float) -> Exception:
        """What to raise for an HTTP status that is no success."""
        reason = self._quote(f"{status} {words}")
        no_credit = any(code in words for code in NO_CREDIT)
        if (status in BUSY or status >= 500) and not no_credit:
            return TryLater(reason, wait)
        if any(code in words for code in FILTERED):
            return Failed(f"refused: {reason}")
        return UserError(f"reward {self.name}: {self.options.model} cannot be asked: {reason}")

    def _quote(self, words: object) -> str:
        """The start of what a server said, in one line, without the key, which some repeat."""
        line = " ".join(str(words).split())
        if self._key is not None:
            line = line.replace(self._key.get_secret_value(), "[key]")
        return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException:
            raise TryLater(f"no answer in {self.options.timeout:g} s") from None
        except httpx2.TransportError as error:
            raise TryLater(f"no connection: {self._quote(error)}") from None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


class OpenAIJudge(RemoteJudge):
    """Chat completions with structured output, of OpenAI, vLLM, OpenRouter, Ollama and others.

    Protocol: https://platform.openai.com/docs/api-reference/chat/create
    """

    Options = OpenAIOptions

    def __init__(self, options: OpenAIOptions, key: SecretStr | None, name: str = "openai") -> None:
        super().__init__(options, key, name)
        if key is not None:
            self._http.headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._url = options.base_url.rstrip("/") + "/chat/completions"
        schema = {"name": "grades", "strict": True, "schema": Grades.model_json_schema()}
        self._fields = {
            "model": options.model,
            "response_format": {"type": "json_schema", "json_schema": schema},
            **options.request,
        }

    def _ask(self, png: bytes, prompt: str) -> str:
        image = {"url": f"data:image/png;base64,{b64encode(png).decode()}"}
        parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": image}]
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": parts},
        ]
        with self._connected():
            response = self._http.post(self._url, json={**self._fields, "messages": messages})
        if response.status_code != 200:
            wait = _retry_after(response.headers)
            raise self._refusal(response.status_code, response.text, wait)
        try:
            choice = _Completion.model_validate_json(response.content).choices[0]
        except ValidationError:
            raise Failed(f"no chat completion: {self._quote(response.text)}") from None
        if choice.message.refusal:
            raise Failed(f"refused: {self._quote(choice.message.refusal)}")
        if choice.finish_reason not in (None, "stop"):
            raise Failed(f"no whole answer, ended by {self._quote(choice.finish_reason)}")
        return choice.message.content or ""


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
                    "system_instruction": INSTRUCTION,
                    "response_mime_type": "application/json",
                    "response_json_schema": Grades.model_json_schema(),
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
                httpx_client=self._http,
            ),
        )

    def _ask(self, png: bytes, prompt: str) -> str:
        from google.genai import errors, types

        image = types.Part.from_bytes(data=png, mime_type="image/png")
        content = types.Content(role="user", parts=[types.Part.from_text(text=prompt), image])
        try:
            with self._connected():
                response = self._client.models.generate_content(
                    model=self.options.model,
                    contents=content,
                    config=self._config,
                )
        except errors.APIError as error:
            wait = max(_retry_after(error.response.headers), _retry_delay(error.details))
            raise self._refusal(error.code, f"{error.status} {error.message}", wait) from None
        except ValueError as error:  # of pydantic, or their own for what is no JSON
            raise Failed(f"no answer of Gemini: {self._quote(error)}") from None
        feedback = response.prompt_feedback
        if feedback is not None and feedback.block_reason:
            raise Failed(f"refused: {feedback.block_reason.value}")
        reason = response.candidates[0].finish_reason if response.candidates else None
        if reason not in (None, types.FinishReason.STOP):
            raise Failed(f"no whole answer, ended by {reason.value}")
        return response.text or ""


def _key(variable: str | None, name: str) -> SecretStr | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"reward {name}: the environment variable {variable} must hold the key")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"reward {name}: the environment variable {variable} holds no key")
    return SecretStr(key)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the header asks to wait (RFC 9110, section 10.2.3): a number or a date."""
    given = headers.get("Retry-After", "")
    if re.fullmatch(r"\d+(\.\d+)?", given):
        return float(given)
    try:
        return email.utils.parsedate_to_datetime(given).timestamp() - time.time()
    except ValueError:
        return 0.0


def _retry_delay(details: object) -> float:
    """Seconds that google.rpc.RetryInfo in the details of an error asks to wait."""
    found = re.search(r"'retryDelay': '(\d+(?:\.\d+)?)s'", str(details))
    return float(found[1]) if found else 0.0
