"""What a user writes, read."""

from __future__ import annotations

import pytest

from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.plans import reward_name
from ttsnap.rewards.registry import KINDS
from ttsnap.schedule import CostModel
from ttsnap.searching.request import PICKSCORE, planned, read_reward


@pytest.mark.parametrize(
    ("text", "name", "template"),
    [
        (PICKSCORE, "PickScore_v1", "pickscore"),
        ("image-reward:zai-org/ImageReward", "ImageReward", "image-reward"),
        ("hpsv2:xswu/HPSv2@" + "a" * 40, "HPSv2", "hpsv2"),
        ("brightness", "brightness", None),
        ("my_rewards:Redness", "Redness", None),
    ],
)
def test_a_reward_by_kind_and_path_is_whole(text: str, name: str, template: str | None) -> None:
    found, given = read_reward(text)
    settings = RewardSettings(**given)
    assert found == name
    assert reward_name(settings) == template
    if settings.kind in KINDS and template in ("image-reward", "hpsv2"):
        # All that the kind needs beside its path.
        KINDS[settings.kind].load().Options.model_validate(settings.options)


def test_what_is_no_kind_is_told() -> None:
    with pytest.raises(UserError, match="klip"):
        read_reward("klip")


def test_a_plan_that_drafts_says_what_a_draft_is() -> None:
    costs = CostModel(denoise=1.0, decode=0.1, reward=0.1, steps=8, draft=1.5)
    prices = {"denoise": 1.0, "decode": 0.1, "reward": 0.1, "preview": None, "draft": 1.5}
    checks = [{"step": -1, "keep": 0.25}, {"step": 3, "keep": 0.5}]
    about = {"strategy": "best", "run_as": "draft+ttsp", "reward": "clip"}
    plan = {
        "steps": 8,
        "unit": "TFLOPs",
        "costs": prices,
        "draft": {"steps": 3, "guided": False},
        "plans": [{**about, "budget": 32.0, "n": 9, "checks": checks}],
        "robust": [],
    }
    assert planned(plan, True, 32.0, "clip", costs) == (
        "draft+ttsp",
        {"schedule": "draft:0.25,3:0.5", "draft_steps": 3, "draft_guided": False},
    )
    with pytest.raises(UserError, match="does not say what a draft is"):
        planned({**plan, "draft": None}, True, 32.0, "clip", costs)
