"""Hashes of local weights follow their contents, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import tiny_clip
from ttsnap.config import Model, RewardSettings
from ttsnap.run import weights
from ttsnap.run.weights import Weights, weight_files


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_clip(Path("clip"))


def test_weights_are_found_wherever_a_reward_names_them() -> None:
    tiny_clip(Path("models/other"), seed=1)
    Path("head.pt").touch()
    reward = RewardSettings(path="clip", options={"head": "./head.pt", "clip": "models/other"})
    assert [(name, str(file)) for name, file in weight_files(reward)] == [
        ("head.pt", "head.pt"),
        ("model.safetensors", "clip/model.safetensors"),
        ("model.safetensors", "models/other/model.safetensors"),
    ]
    of_hub = Model(path="org/name", revision="0" * 40)
    assert weight_files(of_hub) == []
    tiny_stable_diffusion(Path("generator"))
    names = [name for name, _ in weight_files(Model(path="generator"))]
    assert names == sorted(names)
    assert "unet/diffusion_pytorch_model.safetensors" in names


def test_a_hash_follows_contents_and_not_dates_or_folders() -> None:
    cache = Path("cache/weights.json")
    before = Weights(cache).of(RewardSettings(path="clip"))
    file = Path("clip/model.safetensors")
    os.utime(file, (1, 1))
    assert Weights(cache).of(RewardSettings(path="clip")) == before
    shutil.copytree("clip", "copy")
    assert Weights(cache).of(RewardSettings(path="copy")) == before
    held = file.read_bytes()
    file.write_bytes(bytes([*held[:-1], held[-1] ^ 1]))
    assert Weights(cache).of(RewardSettings(path="clip")) != before


def test_a_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    digest = weights.sha256_of
    monkeypatch.setattr(weights, "sha256_of", lambda file: read.append(file) or digest(file))
    cache = Path("cache/weights.json")
    reward = RewardSettings(path="clip")
    first = Weights(cache).of(reward)
    assert Weights(cache).of(reward) == first
    assert read == [Path("clip/model.safetensors")]
    cache.write_text("{")  # whatever a killed machine left
    assert Weights(cache).of(reward) == first
