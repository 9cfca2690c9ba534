"""The stage that prices a search."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import SIZE, tiny_clip
from ttsnap.config import Costs, Model, RewardSettings, Runtime, Sampling
from ttsnap.rewards import load_reward
from ttsnap.stages.reward_cost import VERSION, Settings, main
from ttsnap.store.receipts import read_receipt, write_receipt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_stable_diffusion(tmp_path / "generator")
    tiny_clip(tmp_path / "clip")
    write_receipt(tmp_path / "model.json", {"denoise": 3.0, "decode": 2.0})
    return tmp_path


def prices(folder: Path, costs: Costs, reward: str = "clip") -> dict[str, object]:
    settings = Settings(
        reward=RewardSettings(path=str(folder / "clip")),
        model=Model(path=str(folder / "generator")),
        sampling=Sampling(steps=2, height=SIZE, width=SIZE),
        costs=costs,
        version=VERSION,
    )
    runtime = Runtime(device="cpu", batch_size=2)
    main(settings, runtime, reward, folder / "model.json", folder / "cost.json")
    return read_receipt(folder / "cost.json")


def test_tflops_are_counted(folder: Path) -> None:
    found = prices(folder, Costs())
    reward = load_reward(RewardSettings(path=str(folder / "clip")), name="clip")
    assert (found["denoise"], found["decode"]) == (3.0, 2.0)
    assert found["score"] == reward.tflops(SIZE, SIZE)
    assert found["unit"] == "TFLOPs"
    assert found["measured"] == ["denoise", "decode", "score"]


def test_given_prices_are_taken(folder: Path) -> None:
    found = prices(folder, Costs(denoise=9.9, rewards={"clip": 0.25}))
    assert (found["denoise"], found["decode"], found["score"]) == (9.9, 2.0, 0.25)
    assert found["measured"] == ["decode"]


def test_nothing_is_loaded_where_all_is_given(tmp_path: Path) -> None:
    found = prices(tmp_path, Costs(denoise=9.9, decode=1.0, rewards={"clip": 0.2}))
    assert found["measured"] == []


def test_seconds_are_measured(folder: Path) -> None:
    found = prices(folder, Costs(unit="seconds", decode=7.0))
    assert found["unit"] == "seconds"
    assert found["decode"] == 7.0
    assert all(0 < found[part] < 7 for part in ("denoise", "score"))
