from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rewards.test_clip import TEXTS, pictures
from tests.tiny_clip import SIZE, tiny_clip
from tests.tiny_families import tiny
from ttsnap import search
from ttsnap.config import RewardSettings, load_config
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.rewards.ensemble import Ensemble, Member, ranks
from ttsnap.rewards.function import FunctionReward, searchable


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    return tiny_clip(first), tiny_clip(second, seed=1, size=40)


def ensemble(folders: tuple[Path, Path], **options: object) -> RewardSettings:
    """As a config with three other rewards gives it."""
    rewards = {
        "one": {"path": str(folders[0])},
        "two": {"path": str(folders[1])},
        "bright": {"kind": "brightness"},
        "all": {"kind": "ensemble", "options": options},
    }
    return load_config({"rewards": rewards, "search": {"reward": "all"}}).rewards["all"]


def single(folder: Path) -> np.ndarray:
    return load_reward(RewardSettings(path=str(folder)), name="x").score(pictures(5), TEXTS)


def test_z_scores_are_summed(folders: tuple[Path, Path]) -> None:
    members = {"one": {"weight": 2, "mean": 3, "std": 0.5}, "bright": -1}
    reward = load_reward(ensemble(folders, rewards=members), name="all")
    bright = BrightnessReward().score(pictures(5), TEXTS)
    expected = 2 * (single(folders[0]) - 3) / 0.5 - bright
    scores = reward.score(pictures(5), TEXTS)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores.dtype == np.float32
    assert reward.scale == "z-scores, 2 one + -1 bright"
    one = load_reward(RewardSettings(path=str(folders[0])), name="one")
    assert reward.tflops(64, 64) == one.tflops(64, 64) + BrightnessReward().tflops(64, 64)


def test_ranks_are_among_images_of_a_prompt() -> None:
    scores = np.array([[5.0, 1, 3, 3, 9, 0], [2.0, 2, 7, 8, 1, 4]])
    found = ranks(scores, ["a", "a", "b", "b", "b", "a"])
    np.testing.assert_array_equal(found, [[3, 2, 1.5, 1.5, 3, 1], [1.5, 1.5, 2, 3, 1, 3]])


def test_rank_sums_choose_as_joint_pruning_does(folders: tuple[Path, Path]) -> None:
    rewards = {"one": 1, "two": 2}
    reward = load_reward(ensemble(folders, rewards=rewards, by="rank"), name="all")
    texts = ["a red circle"] * 5
    one, two = (
        load_reward(RewardSettings(path=str(folder)), name="x").score(pictures(5), texts)
        for folder in folders
    )
    order = [values.argsort().argsort() + 1 for values in (one, two)]
    np.testing.assert_array_equal(reward.score(pictures(5), texts), order[0] + 2 * order[1])
    assert "scored together" in reward.scale
    with pytest.raises(UserError, match="cannot be finetuned"):
        load_trainable_reward(ensemble(folders, rewards=rewards, by="rank"), name="all")


class Unreliable(BrightnessReward):
    """Fails on its second image."""

    def score(self, images: np.ndarray, prompts: object) -> np.ndarray:
        scores = super().score(images, [])
        scores[1] = np.nan
        return scores


@pytest.mark.parametrize("by", ["zscore", "rank"])
def test_a_failed_member_fails_its_image_alone(by: str) -> None:
    both = Ensemble([Member(BrightnessReward()), Member(Unreliable())], by)  # type: ignore[arg-type]
    scores = both.score(pictures(4), ["a"] * 4)
    assert np.isnan(scores).tolist() == [False, True, False, False]
    if by == "rank":
        assert sorted(scores[[0, 2, 3]]) == [2, 4, 6]


def test_what_is_trained_is_what_scores(folders: tuple[Path, Path]) -> None:
    members = {"one": {"weight": 0.5, "mean": 1, "std": 2}, "two": 1}
    reward = load_trainable_reward(ensemble(folders, rewards=members), name="all")
    rows = reward.encode_texts(TEXTS)
    with torch.no_grad():
        scores = reward.forward(reward.pixel_values(pictures(5)), rows)
    np.testing.assert_allclose(scores, reward.score(pictures(5), TEXTS), rtol=1e-5, atol=1e-5)
    images = torch.rand(5, 3, SIZE, SIZE, requires_grad=True)
    reward.forward(reward.pixel_values(images), rows).sum().backward()
    assert images.grad is not None


def test_a_search_takes_no_ranks_of_batches() -> None:
    """In batches of two, the best of the worse batch ranks as high as the best of all."""
    bright, dark = BrightnessReward(), FunctionReward(lambda images, _: -images.mean((1, 2, 3)))
    both = [Member(bright, 2.0), Member(dark)]
    images = np.array([1, 2, 3, 4], np.uint8)[:, None, None, None].repeat(3, 3)
    by_rank = Ensemble(both, "rank", "all")
    batches = [by_rank.score(images[rows], ["a"] * 2) for rows in (slice(2), slice(2, 4))]
    assert batches[0].max() == batches[1].max()
    assert by_rank.score(images, ["a"] * 4).argmax() == 3
    with pytest.raises(UserError, match=r"^reward all: ranks images .* in batches; give its"):
        search(
            tiny("stable-diffusion"), "a cat", reward=by_rank, budget="16nfe", steps=4,
            height=32, width=32, progress=False,
        )  # fmt: skip
    assert searchable([Ensemble(both, "zscore", "all"), *(member.reward for member in both)])


def contrast(images: np.ndarray, prompts: object) -> np.ndarray:
    return images.std((1, 2, 3))


def test_several_rewards_rank_all_candidates_whatever_the_batch() -> None:
    """Twenty searches in batches of two choose what the ranks of all eight finals choose."""
    rewards = [BrightnessReward(), FunctionReward(contrast)]
    pipe = tiny("stable-diffusion")
    for seed in range(20):
        found = search(
            pipe, "a cat", reward=rewards, budget="16nfe", steps=2, guidance_scale=1.0, seed=seed,
            height=32, width=32, batch_size=2, progress=False,
        )  # fmt: skip
        names = [reward.name for reward in rewards]
        scores = np.array([[one.rewards[name] for one in found.candidates] for name in names])
        assert scores.shape == (2, 8)
        sums = ranks(scores, ["a"] * 8).sum(0)
        assert sums[found.winner] == sums.max()
