"""VQAScore behind a service: a server on loopback that answers with what a tiny model says."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.loopback import Loopback, Reply, Request, serving
from tests.rewards.judges.test_answers import load as load_local
from tests.rewards.judges.test_answers import noise
from tests.tiny_qwen_vl import tiny_qwen_vl
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def load(server: Loopback, **options: Any) -> Any:
    options = {
        "model": "vl-1", "base_url": server.url, "retries": 1, "retry_delay": 0.01
    } | options  # fmt: skip
    settings = RewardSettings(kind="vqascore-openai", options=options)
    return load_reward(settings, name="vqa")


def completion(*likeliest: tuple[str, float]) -> Reply:
    tops = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in likeliest]
    message = {"role": "assistant", "content": tops[0]["token"] if tops else "Yes"}
    logprobs = {"content": [{**tops[0], "top_logprobs": tops}], "refusal": None} if tops else None
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": logprobs}
    return Reply({"choices": [choice]})


def test_scores_equal_those_of_the_model_on_this_machine(tmp_path: Path) -> None:
    folder = tiny_qwen_vl(tmp_path)
    images, prompts = noise(6), ["a red circle.", "два кота 🐈", "", "dogs", "a", "b"]
    local = load_local("vqascore", folder, question="{}")
    questions = [f'Does this image show "{prompt}"?' for prompt in prompts]
    likeliest = local._next(images, questions).topk(20).indices
    # A letter that is one of the likeliest tokens of some images, and not of others.
    letters = [chr(code) for code in range(ord("A"), ord("z") + 1)]
    told = {one: (likeliest == local._encode(one)[0]).any(1).numpy() for one in letters}
    answer = next(one for one in letters if 1 < told[one].sum() < len(images))
    local = load_local("vqascore", folder, answer=answer)
    tokens = local.tokenizer.convert_ids_to_tokens(range(len(local.tokenizer)))

    def reply(request: Request) -> Reply:
        [message] = request.body["messages"]
        image, text = message["content"]
        assert (message["role"], text["type"]) == ("user", "text")
        head, _, code = image["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        seen = np.asarray(Image.open(BytesIO(b64decode(code))))
        shares = local._next(seen[None], [text["text"]])[0].log_softmax(-1)
        values, places = shares.topk(request.body["top_logprobs"])
        names = [tokens[place] for place in places]
        return completion(*zip(names, values.tolist(), strict=True))

    with serving(reply) as server:
        reward = load(server, answer=answer, concurrency=1)
        assert isinstance(reward, Reward)
        given = reward.score(images, prompts)
    wanted = np.where(told[answer], local.score(images, prompts), 0)
    np.testing.assert_allclose(given, wanted, atol=1e-5, rtol=0)
    assert reward.scale == f"probability of {answer} by vl-1, 0 to 1"
    assert reward.tflops(8, 8) == 0
    first = server.requests[0].body
    assert {key: first[key] for key in ("model", "logprobs", "top_logprobs", "max_tokens")} == {
        "model": "vl-1", "logprobs": True, "top_logprobs": 20, "max_tokens": 1
    }  # fmt: skip
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_service_without_probabilities_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(lambda request: completion()) as server,
        pytest.raises(UserError, match="reward vqa: vl-1 returns no log-probabilities"),
    ):
        load(server).score(noise(2), ["a", "b"])
    with serving(lambda request: Reply("busy", 503)) as server:
        assert np.isnan(load(server).score(noise(1), ["a"])).all()
    assert len(server.requests) == 2
    assert "503 busy; 2 attempts" in caplog.text
