"""What a user writes, read."""

from __future__ import annotations

import pytest

from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.plans import reward_name
from ttsnap.rewards.registry import KINDS
from ttsnap.searching.request import PICKSCORE, read_reward


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
