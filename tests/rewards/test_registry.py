"""How a config names a reward."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ttsnap.cli import app
from ttsnap.config import RewardSettings, load_config
from ttsnap.errors import UserError
from ttsnap.rewards import (
    KINDS,
    find_kind,
    is_trainable,
    load_judge,
    load_reward,
    load_trainable_reward,
)

DOC = Path(__file__).parents[2] / "docs/adding-a-reward.md"
TABLE = DOC.with_name("rewards.md")


def blocks(language: str, page: Path = DOC) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def my_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a user who saved the documented example and works there."""
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("my_rewards", None)


def test_the_documented_example_runs(my_rewards: Path) -> None:
    config = load_config(yaml.safe_load(blocks("yaml")[0]))
    reward = load_reward(config.rewards["red"], name="red")
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, :, :, 0] = 255
    np.testing.assert_array_equal(reward.score(images, ["a", "b"]), [2, 0])
    assert reward.tflops(10, 10) == 4e-10
    with pytest.raises(
        UserError, match=r"rewards.red.options.gian: unknown key; did you mean gain"
    ):
        load_reward(RewardSettings(kind="my_rewards:Redness", options={"gian": 1.0}), name="red")
    with pytest.raises(
        UserError, match=r"rewards.red: kind my_rewards:Redness cannot be finetuned"
    ):
        load_trainable_reward(RewardSettings(kind="my_rewards:Redness"), name="red")


def test_the_documented_config_is_valid() -> None:
    [block] = blocks("yaml", TABLE)
    given = yaml.safe_load(block.replace("COMMIT", "0123abcd" * 5))
    config = load_config(given | {"search": {"reward": "both"}})
    assert {reward.kind for reward in config.rewards.values()} == {*KINDS} & {
        "clip", "siglip", "hpsv2", "aesthetic", "image-reward", "classifier", "brightness",
        "compressibility", "detector", "ensemble", "hpsv3", "unifiedreward",
    }  # fmt: skip
    for name, reward in config.rewards.items():
        find_kind(reward.kind).Options.model_validate(reward.options, strict=True)
        assert (reward.path is None) == (name in ("bright", "small", "both"))


def test_an_entry_point_is_a_kind(my_rewards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were installed that offers the example."""
    info = my_rewards / "redness-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: redness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ttsnap.rewards]\nredness = my_rewards:Redness\n")
    monkeypatch.syspath_prepend(my_rewards)
    reward = load_reward(RewardSettings(kind="redness"), name="red")
    assert type(reward).__name__ == "Redness"
    assert "redness" in CliRunner().invoke(app, ["rewards"]).output


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("clop", "rewards.a.kind: clop is neither MODULE:CLASS nor aesthetic, brightness,"),
        ("no_such_module:Class", "cannot be imported"),
        ("ttsnap.rewards.clip:Nobody", "cannot be imported"),
        ("ttsnap.rewards.clip:Path", "Path has no classmethod load"),
        (":", "cannot be imported"),
    ],
)
def test_other_kinds_are_refused(kind: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_reward(RewardSettings(kind=kind), name="a")


def test_whether_a_class_of_ones_own_can_be_trained_shows_without_loading_it(
    my_rewards: Path,
) -> None:
    Path("elsewhere.py").write_text("import a_package_of_the_jobs_environment\n")
    importlib.invalidate_caches()
    trainable = {
        kind: is_trainable(RewardSettings(kind=kind), "red")
        for kind in ("my_rewards:Redness", "ttsnap.rewards.clip:ClipReward", "elsewhere:Any")
    }
    assert list(trainable.values()) == [False, True, True]
    with pytest.raises(UserError, match=r"rewards\.red\.kind: no_such:Any cannot be imported"):
        is_trainable(RewardSettings(kind="no_such:Any"), "red")


def test_a_class_that_loads_something_else_is_refused(my_rewards: Path) -> None:
    Path("half.py").write_text(
        "class Half:\n    @classmethod\n    def load(cls, settings, **_):\n        return cls()\n"
    )
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="loads a Half without all of name, scale"):
        load_reward(RewardSettings(kind="half:Half"), name="a")


def test_what_a_kind_needs_is_asked_for(tmp_path: Path) -> None:
    for kind in ("clip", "aesthetic", "hpsv2", "classifier"):
        required = {"aesthetic": {"head": "h"}, "hpsv2": {"clip": "c"}}.get(kind, {})
        with pytest.raises(UserError, match=f"rewards.a.path: is missing; kind {kind} needs one"):
            load_reward(RewardSettings(kind=kind, options=required), name="a")
    with pytest.raises(UserError, match="kind brightness has no weights"):
        load_reward(RewardSettings(kind="brightness", path="x"), name="a")
    with pytest.raises(UserError, match="reward a cannot be finetuned"):
        load_reward(RewardSettings(kind="brightness"), name="a", checkpoint=tmp_path)
    settings = RewardSettings(path=str(tmp_path), options={"factor": 0})
    with pytest.raises(UserError, match=r"rewards.a.options.factor: should be greater than 0"):
        load_reward(settings, name="a")


def test_rewards_are_listed() -> None:
    shown = CliRunner().invoke(app, ["rewards"])
    assert shown.exit_code == 0
    assert all(kind in shown.output for kind in KINDS)
    shown = CliRunner().invoke(app, ["rewards", "compressibility"])
    assert "max_bytes" in shown.output
    assert "no options" in CliRunner().invoke(app, ["rewards", "brightness"]).output
    failed = CliRunner().invoke(app, ["rewards", "clop"])
    assert isinstance(failed.exception, UserError)


def test_judges_are_imported_by_name(my_rewards: Path) -> None:
    Path("grading.py").write_text("def judge(images, prompts):\n    return 0.5\n")
    sys.path.insert(0, str(my_rewards))
    judge = load_judge("grading:judge")
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(judge(images[:1], ["a"]), [0.5])
    with pytest.raises(UserError, match="reward judge: returned float of shape"):
        judge(images, ["a", "b"])
    sys.modules.pop("grading")
    for place in ["ttsnap.shapes.oracle:nobody", "no.such.module:judge", "plain"]:
        with pytest.raises(UserError, match=place):
            load_judge(place)
