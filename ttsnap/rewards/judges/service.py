"""What judges behind an API share: many requests at once, patience, and who is to blame.

A judge looks at (image, prompt) and grades the aspects of its rubric from 0 to 10; one of them is
the score. What fails for one image gives it NaN, and one line of the log says why. Where several
images are asked about and the judge will grade none, the prompt is refused: `JudgeRefused`. What
would fail for every image, such as a wrong key, is a `UserError` at once.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

import httpx2
import numpy as np
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt, SecretStr

from ttsnap.config import Settings, Text
from ttsnap.errors import JudgeRefused, UserError
from ttsnap.rewards.judges.rubric import Rubric, RubricOptions, read_rubric
from ttsnap.rewards.options import read_options, refuse_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; a server that asks for a longer wait is not waited for
SHOWN = 200  # characters of a server's words that a message quotes
BUSY = {408, 409, 425, 429}  # as are all from 500
NO_CREDIT = ("insufficient_quota",)  # comes with 429, but no wait helps
FILTERED = ("content_filter", "content_policy_violation", "flagged_input")  # of one prompt or image
READINGS = 2  # times that an image is asked about until its answer can be read

Answer = TypeVar("Answer")
Address = Annotated[str, Field(pattern=r"^https?://")]


class RemoteOptions(Settings):
    """Of every reward behind an API."""

    model: Text = Field(description="Model, as the service names it.")
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


class JudgeOptions(RubricOptions, RemoteOptions):
    """Of every judge behind an API."""


class Failed(Exception):
    """This image gets no grade; the message says why."""


class Refused(Failed):
    """The judge was reached, and asking it again would not give this image a grade."""


class TryLater(Failed):
    """There is no grade yet.

    Attributes:
        wait: seconds that the server asked for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class RemoteReward(ABC):
    """A `Reward` that asks a service, up to what it asks."""

    Options: ClassVar[type[RemoteOptions]]
    scale: str

    def __init__(self, options: Any, key: SecretStr | None, name: str) -> None:
        self.name = name
        self.options = options
        self._key = key
        self.http = httpx2.Client(
            timeout=options.timeout, limits=httpx2.Limits(max_connections=options.concurrency)
        )
        weakref.finalize(self, self.http.close)

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
        return cls(options, key_from(options.key_env, name), name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """Ask for a grade of each image, several at once.

        Args:
            images: (B, H, W, 3).
            prompts: B texts, one for each image.

        Returns:
            (B,), 0 to 10; NaN where there is no grade, and the log says why.

        Raises:
            JudgeRefused: if there are several images, and the judge refuses them all.
            UserError: if the service refuses such requests altogether.
        """
        stop = threading.Event()
        failures: dict[int, Failed] = {}

        def grade(index: int) -> float:
            try:
                return self._grade(as_png(images[index]), prompts[index], stop)
            except UserError:
                stop.set()
                raise
            except Failed as error:
                failures[index] = error
                return np.nan

        with ThreadPoolExecutor(self.options.concurrency) as pool:
            try:
                scores = np.fromiter(pool.map(grade, range(len(images))), np.float32, len(images))
            finally:
                stop.set()
        refused = [error for error in failures.values() if isinstance(error, Refused)]
        if len(refused) == len(images) > 1:
            raise JudgeRefused(
                f"reward {self.name}: none of {len(images)} images has a grade: {failures[0]}"
            )
        for index, error in sorted(failures.items()):
            place = f"image {index} of {len(images)}"
            log.warning("reward %s: %s has no grade: %s", self.name, place, error)
        return scores

    def tflops(self, height: int, width: int) -> float:
        """None: they are computed elsewhere, and paid for in money."""
        return 0.0

    @abstractmethod
    def _grade(self, png: bytes, prompt: str, stop: threading.Event) -> float:
        """The grade of one image.

        Raises:
            Failed: it gets none.
            UserError: no image would get one.
        """

    def patiently(self, ask: Callable[[], Answer], stop: threading.Event) -> Answer:
        """What ``ask`` returns, with retries after exponential back-off with jitter.

        Raises:
            Failed: what ``ask`` raises, but `TryLater`, or it was stopped or tried too often.
        """
        attempts = self.options.retries + 1
        for attempt in range(attempts):
            if stop.is_set():
                raise Failed("stopped")
            try:
                return ask()
            except TryLater as error:
                last = error
            if last.wait > PATIENCE:
                raise Failed(f"{last}; it asks to wait {last.wait:.0f} s")
            if attempt + 1 < attempts:
                stop.wait(pause(self.options.retry_delay, attempt, last.wait))
        raise Failed(f"{last}; {attempts} attempts")

    def grades(
        self, rubric: Rubric, ask: Callable[[], str], stop: threading.Event
    ) -> dict[str, float]:
        """The grades of a rubric in what ``ask`` returns, which is asked for again, patiently.

        Raises:
            Failed: as :meth:`patiently`, or no answer could be read.
        """
        for _ in range(READINGS):
            answer = self.patiently(ask, stop)
            try:
                found = rubric.read(answer)
            except ValueError as error:
                reason = f"malformed answer, {error}: {self.quote(answer)}"
            else:
                log.debug("reward %s: %s", self.name, self.quote(answer))
                return found
        raise Refused(reason)

    def refusal(self, status: int, words: str, wait: float = 0.0) -> Exception:
        """What to raise for an HTTP status that is no success."""
        reason = self.quote(f"{status} {words}")
        no_credit = any(code in words for code in NO_CREDIT)
        if (status in BUSY or status >= 500) and not no_credit:
            return TryLater(reason, wait)
        if any(code in words for code in FILTERED):
            return Refused(f"refused: {reason}")
        return UserError(f"reward {self.name}: {self.options.model} cannot be asked: {reason}")

    def quote(self, words: object) -> str:
        """See :func:`quoted`."""
        return quoted(words, self._key)

    @contextmanager
    def connected(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException:
            raise TryLater(f"no answer in {self.options.timeout:g} s") from None
        except httpx2.TransportError as error:
            raise TryLater(f"no connection: {self.quote(error)}") from None


class RemoteJudge(RemoteReward):
    """A `Reward` that grades the aspects of a rubric."""

    Options: ClassVar[type[JudgeOptions]]

    def __init__(self, options: Any, key: SecretStr | None, name: str) -> None:
        super().__init__(options, key, name)
        self.rubric, self.metric = read_rubric(options, name)
        self.scale = f"{self.metric} by {options.model}, 0 to 10"

    @abstractmethod
    def ask(self, png: bytes, prompt: str) -> str:
        """The model's answer, which should have grades for `rubric` to read.

        Raises:
            TryLater: the service is busy or cannot be reached.
            Refused: it does not want to grade this.
            Failed: this image gets no answer.
            UserError: no image would get one.
        """

    def _grade(self, png: bytes, prompt: str, stop: threading.Event) -> float:
        return self.grades(self.rubric, lambda: self.ask(png, prompt), stop)[self.metric]


def as_png(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as a file, without loss."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def quoted(words: object, key: SecretStr | None) -> str:
    """The start of what a server said, in one line, without the key, which some repeat."""
    line = " ".join(str(words).split())
    if key is not None:
        line = line.replace(key.get_secret_value(), "[key]")
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def pause(first: float, attempt: int, asked: float) -> float:
    """Seconds before the attempt after this one: exponential back-off with jitter.

    Args:
        first: seconds before the first retry.
        attempt: which one has failed, from 0.
        asked: seconds that the server asks for, at least.
    """
    return max(first * 2**attempt * random.uniform(1, 1.5), asked)


def key_from(variable: str | None, name: str) -> SecretStr | None:
    """What the environment variable holds; None if there is none to look at.

    Raises:
        UserError: naming the reward, it is empty or cannot be sent.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"reward {name}: the environment variable {variable} must hold the key")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"reward {name}: the environment variable {variable} holds no key")
    return SecretStr(key)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the header asks to wait (RFC 9110, section 10.2.3): a number or a date."""
    given = headers.get("Retry-After", "")
    if re.fullmatch(r"\d+(\.\d+)?", given):
        return float(given)
    try:
        return email.utils.parsedate_to_datetime(given).timestamp() - time.time()
    except ValueError:
        return 0.0
