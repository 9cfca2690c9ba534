"""A reward that another process serves, such as `ttsnap serve-reward`."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import httpx2
import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError

from ttsnap.config import Settings, Text
from ttsnap.errors import UserError
from ttsnap.rewards.judges.service import (
    BUSY,
    PATIENCE,
    Address,
    key_from,
    pause,
    quoted,
    retry_after,
)
from ttsnap.rewards.options import read_options, refuse_weights
from ttsnap.rewards.remote.protocol import (
    TOKEN,
    Answer,
    Complaint,
    Description,
    Message,
    Question,
    encoded,
)
from ttsnap.rewards.scores import as_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

log = logging.getLogger(__name__)

Said = TypeVar("Said", bound=Message)


class HttpOptions(Settings):
    url: Address = Field(description="Of the reward, as http://127.0.0.1:8011/NAME.")
    token_env: Text | None = Field(
        None, description=f"Environment variable that holds the token, as {TOKEN}; null: none."
    )
    batch_size: PositiveInt = Field(16, description="Images sent at once, fewer if they are large.")
    timeout: PositiveFloat = Field(
        300.0, description="Seconds without a word from the server that end an attempt."
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        5, description="Further attempts where a later one may succeed."
    )
    retry_delay: PositiveFloat = Field(
        1.0, description="Seconds before the first retry; doubles with each, plus jitter."
    )


class HttpReward:
    """A `Reward` behind HTTP; its scores are those of the reward that is served."""

    Options = HttpOptions

    def __init__(self, options: HttpOptions, token: SecretStr | None, name: str = "http") -> None:
        """Ask the server what it serves.

        Raises:
            UserError: it does not answer, does not want to, or serves something else.
        """
        self.name = name
        self.options = options
        self._token = token
        self.http = httpx2.Client(timeout=options.timeout)
        weakref.finalize(self, self.http.close)
        if token is not None:
            self.http.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        described = self._ask("GET", Description)
        self.scale = described.scale
        self.limits = described.limits

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "http",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Prepare what ``settings.options`` ask for; ``device`` is the server's own matter.

        Raises:
            UserError: an option is wrong, the token is missing, or as the constructor.
        """
        options = read_options(HttpOptions, settings, name)
        refuse_weights(settings, name, checkpoint)
        return cls(options, key_from(options.token_env, name), name)

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`; NaN where the reward that is served gives no score.

        Raises:
            UserError: the server cannot score, or is gone.
        """
        pixels = images.shape[1] * images.shape[2]
        size = min(self.options.batch_size, self.limits.images, self.limits.pixels // pixels)
        if size == 0:
            raise UserError(
                f"reward {self.name}: {self.options.url} takes images of {self.limits.pixels} "
                f"pixels at most, not of {pixels}"
            )
        scores = np.empty(len(images), np.float32)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            batch = Question(
                images=[encoded(image) for image in images[part]], prompts=list(prompts[part])
            )
            found = self._ask("POST", Answer, json=batch.model_dump()).scores
            values = [np.nan if score is None else score for score in found]
            scores[part] = as_scores(values, len(batch.images), self.name)
        if failed := np.flatnonzero(np.isnan(scores)).tolist():
            log.warning(
                "reward %s: %d of %d images have no score, the first is image %d",
                *(self.name, len(failed), len(images), failed[0]),
            )
        return scores

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; what the server says, and none if it does not know."""
        size = {"height": height, "width": width}
        return self._ask("GET", Description, params=size).tflops or 0.0

    def _ask(self, method: str, kind: type[Said], **content: Any) -> Said:
        """Send a request, again where a later attempt may succeed, and read the answer."""
        attempts = self.options.retries + 1
        for attempt in range(attempts):
            wait = 0.0
            try:
                response = self.http.request(method, self.options.url, **content)
            except httpx2.TimeoutException:
                reason = f"no answer in {self.options.timeout:g} s"
            except httpx2.TransportError as error:
                reason = f"no connection: {error}"
            else:
                if response.status_code == 200:
                    return self._read(kind, response)
                reason = f"{response.status_code} {_words(response)}"
                if response.status_code not in BUSY and response.status_code < 500:
                    raise self._error(reason)
                wait = retry_after(response.headers)
            if wait > PATIENCE:
                raise self._error(f"{reason}; it asks to wait {wait:.0f} s")
            if attempt + 1 < attempts:
                time.sleep(pause(self.options.retry_delay, attempt, wait))
        raise self._error(f"{reason}; {attempts} attempts")

    def _read(self, kind: type[Said], response: httpx2.Response) -> Said:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise self._error(
                f"not what a reward answers, see docs/reward-server.md: {response.text}"
            ) from None

    def _error(self, reason: str) -> UserError:
        words = quoted(reason, self._token)
        return UserError(f"reward {self.name}: {self.options.url}: {words}")


def _words(response: httpx2.Response) -> str:
    try:
        return Complaint.model_validate_json(response.content).error
    except ValidationError:
        return response.text
