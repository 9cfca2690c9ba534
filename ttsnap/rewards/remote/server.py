"""Serves rewards over HTTP: one after the other, with limits, and with nothing to unpickle."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import ValidationError

from ttsnap import strict_json
from ttsnap.errors import UserError
from ttsnap.rewards.remote.protocol import (
    TOKEN,
    Complaint,
    Description,
    Limits,
    Question,
    decoded,
)
from ttsnap.rewards.scores import scores_of

if TYPE_CHECKING:
    from ttsnap.rewards.base import Reward

log = logging.getLogger(__name__)

SILENCE = 60.0  # seconds that a client may be silent in the midst of a request, or between two
WIDEST = 2**16  # pixels; sizes beyond are not asked about


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RewardServer(ThreadingHTTPServer):
    """Serves rewards at ``/NAME``; one scores at a time.

    Args:
        rewards: by name.
        kinds: of the rewards, by name.
        host: name or address to listen at.
        port: 0 for any that is free.
        limits: of a request.

    Raises:
        UserError: a reward ranks what is scored together, which the requests would tear apart; it
            cannot be listened there; or as :func:`token_for`.
    """

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        kinds: Mapping[str, str],
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
    ) -> None:
        for name, reward in rewards.items():
            if getattr(reward, "relative", False):
                raise UserError(
                    f"reward {name}: ranks images that are scored together; serve its members"
                )
        self.rewards, self.kinds, self.limits = rewards, kinds, limits or Limits()
        self.token = token_for(host)
        self.alone = threading.Lock()
        self.address_family, address = _resolved(host)
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise UserError(f"{host}:{port}: cannot be listened at ({error.strerror})") from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of a connection; the log says which client went away before it had its answer."""
        log.debug("%s", client_address, exc_info=True)

    def url(self, name: str) -> str:
        """Address of the reward ``name``."""
        host, port = map(str, self.server_address[:2])
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{quote(name)}"

    def description(self, name: str, size: tuple[int, int] | None = None) -> Description:
        """Of the reward ``name``, with its price for an image of ``size``, height and width."""
        reward = self.rewards[name]
        with self.alone:
            tflops = None if size is None else reward.tflops(*size)
        return Description(
            name=name,
            kind=self.kinds[name],
            scale=reward.scale,
            tflops=tflops,
            limits=self.limits,
        )


def token_for(host: str) -> str:
    """The token to ask clients for; empty where nobody else can reach the host.

    Raises:
        UserError: others can, and the environment holds none.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token and not ipaddress.ip_address(_resolved(host)[1]).is_loopback:
        raise UserError(
            f"--host {host}: other machines reach it; the environment variable {TOKEN} must hold "
            "the token that they are asked for"
        )
    return token


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}") from None
    return family, str(address[0])


class _Handler(BaseHTTPRequestHandler):
    """Answers GET / and GET and POST /NAME."""

    server: RewardServer
    protocol_version = "HTTP/1.1"
    server_version = "ttsnap"
    sys_version = ""
    timeout = SILENCE

    def do_GET(self) -> None:
        self._answer(self._described)

    def do_POST(self) -> None:
        self._answer(self._scored)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _answer(self, make: Any) -> None:
        try:
            self._check_token()
            status, body = 200, make()
        except _Refusal as error:
            status, body = error.status, Complaint(error=str(error)).model_dump()
        except (UserError, FloatingPointError) as error:
            status, body = 422, Complaint(error=str(error)).model_dump()
        except (ConnectionError, TimeoutError):
            raise  # the base class closes the connection
        except Exception as error:
            log.exception("%s", self.path)
            status, body = 500, Complaint(error=f"{type(error).__name__}: {error}").model_dump()
        content = strict_json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status != 200:
            # What is left of the request was not read.
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _check_token(self) -> None:
        given = self.headers.get("Authorization", "").encode()
        wanted = f"Bearer {self.server.token}".encode()
        if self.server.token and not hmac.compare_digest(given, wanted):
            raise _Refusal(401, "wrong token, or none")

    def _name(self) -> str:
        name = unquote(urlsplit(self.path).path).strip("/")
        if name not in self.server.rewards:
            there = ", ".join(f"/{quote(one)}" for one in self.server.rewards)
            raise _Refusal(404, f"nothing here; there is {there}")
        return name

    def _described(self) -> dict[str, Any]:
        parts = urlsplit(self.path)
        if parts.path == "/":
            all_of_them = [self.server.description(name) for name in self.server.rewards]
            return {"rewards": [one.model_dump() for one in all_of_them]}
        query = parse_qs(parts.query)
        size = None
        if query:
            try:
                size = int(query["height"][0]), int(query["width"][0])
            except (KeyError, ValueError):
                raise _Refusal(400, "expected ?height=PIXELS&width=PIXELS") from None
            if not (min(size) > 0 and max(size) < WIDEST):
                raise _Refusal(400, "no size of an image")
            if size[0] * size[1] > self.server.limits.pixels:
                raise _Refusal(413, f"{self.server.limits.pixels} pixels are the most")
        return self.server.description(self._name(), size).model_dump()

    def _scored(self) -> dict[str, Any]:
        name = self._name()
        # A page in a browser can send other types to this machine without asking.
        if self.headers.get_content_type() != "application/json":
            raise _Refusal(415, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refusal(411, "Content-Length is missing")
        if int(length) > self.server.limits.bytes:
            raise _Refusal(413, f"{length} bytes, and {self.server.limits.bytes} are the most")
        question = _question(self.rfile.read(int(length)))
        try:
            images = decoded(question.images, self.server.limits)
        except ValueError as error:
            raise _Refusal(400, str(error)) from None
        with self.server.alone:
            scores = scores_of(self.server.rewards[name], images, question.prompts)
        return {"scores": scores.tolist()}


def _question(body: bytes) -> Question:
    try:
        question = Question.model_validate_json(body)
    except ValidationError as error:
        detail = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, detail["loc"])) or "body"
        raise _Refusal(400, f"{place}: {detail['msg']}") from None
    if len(question.images) != len(question.prompts):
        raise _Refusal(400, f"{len(question.images)} images and {len(question.prompts)} prompts")
    return question
