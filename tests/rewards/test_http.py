"""Rewards behind HTTP: real servers on free ports of this machine, and what goes wrong there."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.loopback import Reply, serving
from tests.tiny_clip import clip_reward, tiny_clip
from ttsnap.config import RewardSettings, load_config
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.rewards.ensemble import Ensemble, Member
from ttsnap.rewards.function import FunctionReward
from ttsnap.rewards.options import read_options
from ttsnap.rewards.remote.client import HttpReward
from ttsnap.rewards.remote.protocol import (
    BYTES,
    IMAGES,
    PIXELS,
    TOKEN,
    Answer,
    Description,
    Limits,
    Question,
    decoded,
    encoded,
)
from ttsnap.rewards.remote.server import RewardServer

QUICK = {"timeout": 5.0, "retries": 2, "retry_delay": 0.01}
SECRET = "a-token-of-this-test"


@contextmanager
def served(limits: Limits | None = None, **rewards: Reward) -> Iterator[RewardServer]:
    kinds = {name: f"kind-of-{name}" for name in rewards}
    with RewardServer(rewards, kinds, limits=limits) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def load(url: str, **options: Any) -> Any:
    options = {"url": url, **QUICK, **options}
    return load_reward(RewardSettings(kind="http", options=options), name="far")


def noise(count: int, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def post(url: str, content: Any, **headers: str) -> tuple[int, str]:
    """Status and complaint of the answer to a request that is no client of ours."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"Content-Type": "application/json", **headers}
    response = httpx2.post(url, content=content, headers=headers)
    return response.status_code, response.json().get("error", "")


def png(mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> str:
    Image.new(mode, size).save(file := BytesIO(), "PNG")
    return b64encode(file.getvalue()).decode()


def bomb(width: int, height: int) -> str:
    """A PNG of a few bytes whose header says that it is huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b64encode(b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")).decode()


def test_scores_are_those_of_the_local_rewards(tmp_path: Path) -> None:
    local = {"brightness": BrightnessReward(), "clip": clip_reward(tiny_clip(tmp_path))}
    images = noise(7)
    prompts = ["a red circle", "два кота 🐈", "", "x", "x", "a blue square", "y"]
    with served(**local) as server:
        for name, reward in local.items():
            far = load(server.url(name), batch_size=3)
            assert isinstance(far, Reward)
            assert far.scale == reward.scale
            assert far.tflops(24, 40) == reward.tflops(24, 40) > 0
            scores = far.score(images, prompts)
            assert scores.dtype == np.float32
            parts = [reward.score(images[i : i + 3], prompts[i : i + 3]) for i in (0, 3, 6)]
            np.testing.assert_array_equal(scores, np.concatenate(parts))
            assert np.ptp(scores) > 0
        listed = httpx2.get(server.url("")).json()["rewards"]
    assert [(one["name"], one["kind"]) for one in listed] == [
        ("brightness", "kind-of-brightness"),
        ("clip", "kind-of-clip"),
    ]
    assert listed[0]["limits"] == {"images": IMAGES, "pixels": PIXELS, "bytes": BYTES}


def test_batches_keep_within_what_the_server_takes() -> None:
    sizes = []

    def count(images: np.ndarray, prompts: list[str]) -> np.ndarray:
        sizes.append(len(images))
        return images[:, 0, 0, 0]

    with served(Limits(images=5, pixels=3 * 16 * 24), count=FunctionReward(count)) as server:
        images = noise(8)
        scores = load(server.url("count")).score(images, [""] * 8)
        np.testing.assert_array_equal(scores, images[:, 0, 0, 0])
        with pytest.raises(UserError, match=r"far: .* takes images of 1152 pixels at most, not"):
            load(server.url("count")).score(noise(1, 64, 64), [""])
    assert sizes == [3, 3, 2]


def test_one_request_scores_at_a_time() -> None:
    inside: list[int] = []

    def alone(images: np.ndarray, prompts: list[str]) -> list[float]:
        inside.append(1)
        time.sleep(0.05)
        together = len(inside)
        inside.pop()
        return [float(together)] * len(images)

    found: list[float] = []
    with served(alone=FunctionReward(alone)) as server:

        def ask() -> None:
            found.extend(load(server.url("alone")).score(noise(1), [""]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1.0] * 4


def test_the_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match=rf"--host {host}: other machines .* {TOKEN} must"):
            RewardServer({}, {}, host)
    monkeypatch.setenv(TOKEN, SECRET)
    RewardServer({}, {}, "0.0.0.0").server_close()
    monkeypatch.setenv("OTHER", "another")
    with served(brightness=BrightnessReward()) as server:
        url = server.url("brightness")
        assert load(url, token_env=TOKEN).score(noise(1), [""]) > 0
        for given in ({}, {"token_env": "OTHER"}):
            with pytest.raises(
                UserError, match=r"reward far: .*: 401 wrong token, or none"
            ) as told:
                load(url, **given)
            assert SECRET not in str(told.value)
        monkeypatch.setenv("OTHER", "wrong token")  # which the server then repeats
        with pytest.raises(UserError, match=r"401 \[key\], or none"):
            load(url, token_env="OTHER")
        body = {"images": [png()], "prompts": [""]}
        assert post(url, body) == (401, "wrong token, or none")
        assert post(url, body, Authorization=f"Bearer {SECRET}")[0] == 200
    with pytest.raises(UserError, match="the environment variable NO_SUCH must hold the key"):
        load(url, token_env="NO_SUCH")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"\x80\x04.", 400, "body: Invalid JSON"),
        ([], 400, "body: Input should be an object"),
        ({"prompts": []}, 400, "images: Field required"),
        ({"images": [], "prompts": []}, 400, "images: List should have at least 1 item"),
        ({"images": [png()], "prompts": [7]}, 400, "prompts.0: Input should be a valid string"),
        ({"images": [png()], "prompts": []}, 400, "1 images and 0 prompts"),
        ({"images": [png()] * 4, "prompts": [""] * 4}, 400, "4 images, and 3 are the most"),
        ({"images": ["(!)"], "prompts": [""]}, 400, "image 0 is not base64"),
        ({"images": [png(), "R0lGODlh"], "prompts": ["", ""]}, 400, "image 1 is not a PNG"),
        ({"images": [png("L")], "prompts": [""]}, 400, "image 0 is not RGB of 8 bits"),
        ({"images": [png("RGBA")], "prompts": [""]}, 400, "image 0 is not RGB of 8 bits"),
        ({"images": [png(), png(size=(4, 5))], "prompts": ["", ""]}, 400, "differ in size"),
        ({"images": [bomb(50_000, 50_000)], "prompts": [""]}, 400, "1 images of 50000 x 50000"),
        ({"images": [bomb(100, 100)], "prompts": [""]}, 400, "image 0 is damaged"),
        ({"images": [png()[:60]], "prompts": [""]}, 400, "image 0 is damaged"),
        (b" " * 100_001, 413, "100001 bytes, and 100000 are the most"),
    ],
)
def test_a_bad_request_gets_one_line(body: Any, status: int, words: str) -> None:
    limits = Limits(images=3, pixels=30_000, bytes=100_000)
    with served(limits, brightness=BrightnessReward()) as server:
        given, said = post(server.url("brightness"), body)
        assert given == status
        assert words in said
        assert "\n" not in said
        assert load(server.url("brightness")).score(noise(1), [""]) > 0  # and serves on


def test_other_requests_are_refused() -> None:
    body = {"images": [png()], "prompts": [""]}
    with served(brightness=BrightnessReward()) as server:
        url = server.url("brightness")
        assert post(server.url("bright"), body) == (404, "nothing here; there is /brightness")
        assert post(url, body, **{"Content-Type": "text/plain"})[0] == 415
        connection = http.client.HTTPConnection(*server.server_address[:2])
        connection.putrequest("POST", "/brightness")
        connection.putheader("Content-Type", "application/json")
        connection.endheaders()
        assert connection.getresponse().status == 411
        connection.close()
        for query in ("height=9", "height=x&width=9", "height=0&width=9", "height=9&width=99999"):
            assert httpx2.get(f"{url}?{query}").status_code == 400
        assert httpx2.get(f"{url}?height=9000&width=9000").status_code == 413


def test_what_cannot_be_scored_is_said_once() -> None:
    calls: list[int] = []

    def failing(images: np.ndarray, prompts: list[str]) -> Any:
        calls.append(1)
        if prompts[0] == "infinite":
            return [np.inf] * len(images)
        if prompts[0] == "broken":
            raise RuntimeError("out of memory")
        return [np.nan if prompt == "none" else 0.5 for prompt in prompts]

    with served(failing=FunctionReward(failing)) as server:
        far = load(server.url("failing"))
        with pytest.raises(UserError, match=r"422 reward failing: returned inf for image 0 of 1"):
            far.score(noise(1), ["infinite"])
        assert len(calls) == 1
        with pytest.raises(UserError, match=r"500 RuntimeError: out of memory; 3 attempts"):
            far.score(noise(1), ["broken"])
        assert len(calls) == 4


def test_no_score_is_nan(caplog: pytest.LogCaptureFixture) -> None:
    def some(images: np.ndarray, prompts: list[str]) -> list[float]:
        return [np.nan if prompt == "none" else 0.5 for prompt in prompts]

    with served(some=FunctionReward(some)) as server:
        far = load(server.url("some"), batch_size=2)
        scores = far.score(noise(4), ["a", "b", "c", "none"])
    np.testing.assert_array_equal(scores, np.array([0.5, 0.5, 0.5, np.nan], np.float32))
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert record.getMessage() == ("reward far: 1 of 4 images have no score, the first is image 3")


@contextmanager
def another(answer: Callable[[], Reply]) -> Iterator[Any]:
    """A loaded client, whose server from then on answers with other things than ours does."""
    with served(r=BrightnessReward()) as ours, serving(lambda request: answer()) as theirs:
        far = load(ours.url("r"))
        far.options = far.options.model_copy(update={"url": theirs.url})
        yield far


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"scores": [NaN, 1]}', "not what a reward answers"),
        ('{"scores": [1e999, 1]}', "not what a reward answers"),
        ('{"scores": ["1", 1]}', "not what a reward answers"),
        ("<html>", "not what a reward answers, see docs/reward-server.md: <html>"),
        ({"scores": [1.0]}, "reward far: returned list of shape (1,), expected 2 numbers"),
    ],
)
def test_other_answers_are_refused(body: Any, words: str) -> None:
    with another(lambda: Reply(body)) as far, pytest.raises(UserError, match=re.escape(words)):
        far.score(noise(2), ["", ""])


def test_a_busy_server_is_asked_again() -> None:
    replies = [Reply({"error": "busy"}, 503), Reply("", 429, {"Retry-After": "0"})]
    replies.append(Reply({"scores": [0.25], "more": "of another version"}))
    with another(lambda: replies.pop(0)) as far:
        assert far.score(noise(1), [""]) == 0.25
    later = Reply({"error": "busy"}, 503, {"Retry-After": "3600"})
    with another(lambda: later) as far, pytest.raises(UserError, match="asks to wait 3600 s"):
        far.score(noise(1), [""])


def test_a_slow_server_ends_by_the_time_limit() -> None:
    done = threading.Event()

    def slow(images: np.ndarray, prompts: list[str]) -> list[float]:
        done.wait(10)
        return [0.0] * len(images)

    with served(slow=FunctionReward(slow)) as server:
        far = load(server.url("slow"), timeout=0.2, retries=1)
        with pytest.raises(UserError, match=r"/slow: no answer in 0\.2 s; 2 attempts"):
            far.score(noise(1), [""])
        done.set()


def test_what_cannot_be_served_is_refused() -> None:
    ranks = Ensemble([Member(BrightnessReward())], "rank", "both")
    with pytest.raises(UserError, match="reward both: ranks images that are scored together"):
        RewardServer({"both": ranks}, {"both": "ensemble"})
    taken = r"127\.0\.0\.1:\d+: cannot be listened at"
    with served(r=BrightnessReward()) as server, pytest.raises(UserError, match=taken):
        RewardServer({}, {}, port=server.server_port)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: "):
        RewardServer({}, {}, "no.such.host.invalid")
    with pytest.raises(UserError, match=r"rewards\.far\.options\.url: "):
        load("ftp://x")
    settings = RewardSettings(kind="http", options={"url": "http://127.0.0.1:9"})
    with pytest.raises(UserError, match="cannot be finetuned"):
        load_reward(settings, name="far", checkpoint=Path("x"))


@contextmanager
def command(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "ttsnap", "serve-reward", *arguments]
    environment: Mapping[str, str] = {**os.environ, **variables}
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Tests that a shell runs in the background ignore it, and what they start would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_serves_until_it_dies() -> None:
    with command("brightness", "compressibility", "--port", "0") as process:
        assert process.stdout is not None
        urls = [process.stdout.readline().strip() for _ in range(2)]
        far = load(urls[0], retries=1)
        images = noise(2)
        expected = BrightnessReward().score(images, ["", ""])
        np.testing.assert_array_equal(far.score(images, ["", ""]), expected)
        assert load(urls[1]).score(np.zeros((1, 256, 256, 3), np.uint8), [""]) > 0
        process.kill()
        process.wait()
        with pytest.raises(UserError, match=r"brightness: no connection: .*; 2 attempts"):
            far.score(images, ["", ""])


def test_the_command_ends_by_a_signal_and_refuses_in_one_line() -> None:
    with command("brightness", "--port", "0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=120)
        assert (process.returncode, out, errors) == (0, "stopped\n", "")
    with command("brightness", "--host", "0.0.0.0", **{TOKEN: ""}) as process:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert errors == (
            "ttsnap: --host 0.0.0.0: other machines reach it; the environment variable "
            f"{TOKEN} must hold the token that they are asked for\n"
        )


def test_rewards_of_a_config_are_served(
    ttsnap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(
        "rewards:\n  small: {kind: compressibility}\nsearch: {reward: small}\n"
    )
    with served(r=BrightnessReward()) as server:
        taken = server.server_port
        options = ["--config", tmp_path / "c.yaml", "--port", taken]
        assert ttsnap("serve-reward", "small", *options) == 1
        assert f"127.0.0.1:{taken}: cannot be listened at" in capsys.readouterr().err
    assert ttsnap("serve-reward", "small") == 1
    assert "small is neither MODULE:CLASS nor" in capsys.readouterr().err
    assert ttsnap("serve-reward", "brightness", "brightness") == 1
    assert "brightness is listed twice" in capsys.readouterr().err


def test_encoded_images_lose_nothing() -> None:
    images = noise(3, 5, 9)
    np.testing.assert_array_equal(decoded([encoded(one) for one in images], Limits()), images)


def test_the_page_shows_the_protocol() -> None:
    page = (Path(__file__).parents[2] / "docs/reward-server.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    description, question, answer = map(json.loads, shown)
    assert Description.model_validate(description).limits == Limits()
    assert description["scale"] == BrightnessReward.scale
    assert description["tflops"] == pytest.approx(BrightnessReward().tflops(512, 768), rel=0.05)
    Question.model_validate(question)
    Answer.model_validate(answer)
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    settings = load_config(yaml.safe_load(block)).rewards["far"]
    assert read_options(HttpReward.Options, settings, "far").batch_size == 16
