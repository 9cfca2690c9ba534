"""Every kind of reward with weights can be finetuned, by LoRA and in full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from tests.rewards.test_classifier import tiny_classifier
from tests.rewards.test_hpsv2 import in_open_clips_layout
from tests.tiny_clip import SIZE, tiny_clip
from tests.tiny_image_reward import tiny_image_reward
from tests.tiny_siglip import tiny_siglip
from ttsnap.config import Lora, Narf, RewardSettings
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.aesthetic import network

TEXTS = ["a tench", "a cat"]
IMAGES = 4


def aesthetic(folder: Path) -> RewardSettings:
    torch.manual_seed(0)
    head = {f"layers.{name}": 3 * weight for name, weight in network(16).state_dict().items()}
    save_file(head, folder / "head.safetensors")
    options = {"head": str(folder / "head.safetensors")}
    return RewardSettings(kind="aesthetic", path=str(tiny_clip(folder)), options=options)


def classifier(folder: Path) -> RewardSettings:
    return RewardSettings(kind="classifier", path=str(tiny_classifier(folder)))


def hpsv2(folder: Path) -> RewardSettings:
    clip = tiny_clip(folder)
    state = in_open_clips_layout(CLIPModel.from_pretrained(clip))
    torch.save({"state_dict": dict(state)}, folder / "HPS_v2.1_compressed.pt")
    return RewardSettings(kind="hpsv2", path=str(folder), options={"clip": str(clip)})


def image_reward(folder: Path) -> RewardSettings:
    options = {"tokenizer": str(tiny_image_reward(folder) / "tokenizer")}
    return RewardSettings(kind="image-reward", path=str(folder), options=options)


def siglip(folder: Path) -> RewardSettings:
    return RewardSettings(kind="siglip", path=str(tiny_siglip(folder)))


def ensemble(folder: Path) -> RewardSettings:
    members = {
        "first": {"path": str(tiny_clip(folder / "first")), "weight": 0.5},
        "second": {"path": str(tiny_clip(folder / "second", seed=1, size=40)), "std": 2.0},
    }
    return RewardSettings(kind="ensemble", options={"rewards": members})


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("make", [aesthetic, classifier, hpsv2, image_reward, siglip, ensemble])
def test_a_kind_is_finetuned(
    tmp_path: Path, make: Callable[[Path], RewardSettings], method: str
) -> None:
    settings = make(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(TEXTS), IMAGES, 1, SIZE, SIZE, 3), dtype=np.uint8)
    flat = images.reshape(-1, SIZE, SIZE, 3)
    prompts = [text for text in TEXTS for _ in range(IMAGES)]
    reward = load_trainable_reward(settings, name="a")
    before = reward.score(flat, prompts)
    teacher = before + before.std() * rng.standard_normal(len(flat)).astype(np.float32)
    data = StepData(images, (0,), TEXTS, teacher.reshape(len(TEXTS), IMAGES))
    # Five layers after each other without activations move fast.
    full = 2e-5 if make is image_reward else 2e-4
    narf = Narf(
        method=method,
        lora=Lora(rank=4, targets=["q_proj", "v_proj", "query", "value", "fc1", "fc2"]),
        epochs=12,
        patience=12,
        learning_rate={"lora": 3e-3, "full": full}[method],
    )
    history = finetune_step(
        reward, data, narf, start=None, out=tmp_path / "out", seed=0, val_data=data
    )
    losses = history["loss"].dropna()
    assert losses.tail(2).mean() < 0.8 * losses.iloc[0]
    after = reward.score(flat, prompts)
    assert not np.allclose(before, after, rtol=1e-3)
    loaded = load_reward(settings, name="a", checkpoint=tmp_path / "out")
    np.testing.assert_allclose(loaded.score(flat, prompts), after, rtol=1e-6, atol=1e-6)
