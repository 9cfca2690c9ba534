"""What rewards may return, whether functions or classes of the user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_families import tiny
from ttsnap import search
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import Reward, load_reward
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.rewards.ensemble import Ensemble, Member
from ttsnap.rewards.frames import score_frames
from ttsnap.rewards.function import FunctionReward, searchable
from ttsnap.rewards.scores import as_scores

IMAGES = np.zeros((3, 4, 4, 3), np.uint8)
PROMPTS = ["a", "b", "c"]
VALUES = [3, 0, -1]

TAKEN = {
    "array": np.array(VALUES, np.float64),
    "integers": np.array(VALUES, np.int64),
    "bytes": np.array(VALUES, np.int8),
    "column": np.array(VALUES, np.float32)[:, None],
    "list": VALUES,
    "tuple": (3.0, 0.0, -1.0),
    "rows": [[3], [0], [-1]],
    "numpy numbers": [np.float32(3), np.int64(0), np.float64(-1)],
    "tensor": torch.tensor(VALUES),
    "gradient": torch.tensor(VALUES, dtype=torch.float32, requires_grad=True) * 1,
    "column with gradient": torch.tensor(VALUES, dtype=torch.float32, requires_grad=True)[:, None],
    "bfloat16": torch.tensor(VALUES, dtype=torch.bfloat16),
    "numbers with gradients": list(torch.tensor([3.0, 0.0, -1.0], requires_grad=True)),
}

REFUSED = {
    "returned None, expected 3 numbers, shape (3,)": None,
    "returned float of shape (), expected 3 numbers": 0.5,
    "returned float64 of shape (), expected 3 numbers": np.float64(0.5),
    "returned Tensor of shape (), expected 3 numbers": torch.tensor(0.5),
    "returned ndarray of shape (2,), expected": np.zeros(2),
    "returned list of shape (4,), expected": [1, 2, 3, 4],
    "returned Tensor of shape (1, 3), expected": torch.zeros(1, 3),
    "returned ndarray of shape (3, 2), expected": np.zeros((3, 2)),
    "returned list of shape (0,), expected": [],
    "returned inf for image 1 of 3, expected finite": [1, np.inf, np.nan],
    "returned -inf for image 0 of 3, expected finite": torch.tensor([-torch.inf, 0, 1]),
    "returned 1e+300 for image 2 of 3, expected finite": [0, 1, 1e300],
    "returned list [1, None, 2], expected": [1, None, 2],
    "returned list ['1', '2', '3'], expected": ["1", "2", "3"],
    "returned str 'good', expected": "good",
    "returned dict {'a': 1}, expected": {"a": 1},
    "returned list [[1], [2, 3], []], expected": [[1], [2, 3], []],
    "returned ndarray of shape (3, 4, 4, 3), expected": IMAGES,
}


@pytest.mark.parametrize("name", TAKEN)
def test_numbers_of_all_kinds_are_taken(name: str) -> None:
    scores = FunctionReward(lambda images, prompts: TAKEN[name]).score(IMAGES, PROMPTS)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, VALUES)


@pytest.mark.parametrize("given", [2, 2.0, [2], [[2]], torch.tensor(2.0), np.float32(2)])
def test_one_image_may_get_one_number(given: object) -> None:
    np.testing.assert_array_equal(as_scores(given, 1, "a"), [2])


def test_failures_stay_failures() -> None:
    np.testing.assert_array_equal(as_scores([1, np.nan, 3], 3, "a"), [1, np.nan, 3])
    assert as_scores([], 0, "a").shape == (0,)


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_score_is_one_line_with_name_and_shape(words: str) -> None:
    def taste(images: np.ndarray, prompts: object) -> object:
        return REFUSED[words]

    with pytest.raises(UserError) as refused:
        FunctionReward(taste).score(IMAGES, PROMPTS)
    line = str(refused.value)
    assert line.startswith(f"reward taste: {words}")
    assert "\n" not in line


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Reward]]:
    """Loads a class of a user's own whose scores are an expression."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def load(scores: str) -> Reward:
        Path("mine.py").write_text(
            "import torch\n\n\nclass Mine:\n    scale = 'any'\n    name = 'mine'\n\n"
            "    @classmethod\n    def load(cls, settings, **_):\n        return cls()\n\n"
            f"    def score(self, images, prompts):\n        return {scores}\n\n"
            "    def tflops(self, height, width):\n        return 0.0\n"
        )
        importlib.invalidate_caches()
        return load_reward(RewardSettings(kind="mine:Mine"), name="mine")

    yield load
    sys.modules.pop("mine", None)


def test_a_class_of_ones_own_is_held_to_the_same(mine: Callable[[str], Reward]) -> None:
    reward = mine("torch.ones(len(images), 1, requires_grad=True)")
    np.testing.assert_array_equal(score_frames(reward, IMAGES, PROMPTS, 1), [1, 1, 1])
    videos = IMAGES.repeat(2, 0).reshape(3, 2, 4, 4, 3)
    np.testing.assert_array_equal(score_frames(reward, videos, PROMPTS, 2), [1, 1, 1])
    both = Ensemble([Member(reward), Member(BrightnessReward())])
    np.testing.assert_array_equal(both.score(IMAGES, PROMPTS), [1, 1, 1])


def test_a_class_that_returns_too_few_is_refused(mine: Callable[[str], Reward]) -> None:
    reward = mine("torch.ones(len(images) - 1)")
    refused = pytest.raises(UserError, match=r"^reward mine: returned Tensor of shape \(2,\), exp")
    with refused:
        score_frames(reward, IMAGES, PROMPTS, 1)
    with refused:
        score_frames(reward, IMAGES[None], ["a"], 3)
    with refused:
        Ensemble([Member(reward), Member(BrightnessReward())]).score(IMAGES, PROMPTS)


def test_names_are_made_distinct() -> None:
    def taste(images: np.ndarray, prompts: object) -> object:
        return [0] * len(images)

    given: list[Any] = [
        FunctionReward(lambda images, prompts: [1] * len(images)),
        FunctionReward(taste),
        FunctionReward(lambda images, prompts: [2] * len(images)),
        BrightnessReward("reward-2"),
        FunctionReward(lambda images, prompts: [3] * len(images)),
    ]
    named = searchable(given)
    assert [one.name for one in named] == ["reward", "taste", "reward-3", "reward-2", "reward-4"]
    assert [one.score(IMAGES, PROMPTS)[0] for one in named] == [1, 0, 2, 0, 3]
    assert all(isinstance(one, Reward) for one in named)
    assert named[2].scale == given[2].scale
    assert named[2].tflops(8, 8) == 0


def test_two_lambdas_keep_two_scores() -> None:
    found = search(
        tiny("stable-diffusion"),
        "a cat",
        reward=[
            lambda images, prompts: images.mean((1, 2, 3)),
            lambda images, prompts: -images.mean((1, 2, 3)),
        ],
        budget="16nfe",
        num_inference_steps=4,
        height=32,
        width=32,
        progress=False,
    )
    winner = found.candidates[found.winner].rewards
    assert set(winner) == {"reward", "reward-2"}
    assert winner["reward"] == -winner["reward-2"] != 0


def test_a_search_says_what_a_function_returned() -> None:
    with pytest.raises(UserError, match=r"reward mean: returned float64 of shape \(\), expected"):
        search(
            tiny("stable-diffusion"),
            "a cat",
            reward=mean,
            budget="16nfe",
            num_inference_steps=4,
            height=32,
            width=32,
            progress=False,
        )


def mean(images: np.ndarray, prompts: object) -> np.floating:
    return images.mean()
