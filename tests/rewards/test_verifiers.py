"""Checkpoints that share a network score as if each were loaded by itself, and take less memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_clip import SIZE, tiny_clip
from ttsnap.config import Lora, Narf, RewardSettings
from ttsnap.errors import UserError
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.verifiers import SharedReward, load_verifiers

IMAGES = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
TEXTS = ["a ring", "two", "red"]
PROMPTS = [text for text in TEXTS for _ in "12"]


def clip(folder: Path) -> RewardSettings:
    return RewardSettings(path=str(tiny_clip(folder)))


def ensemble(folder: Path) -> RewardSettings:
    members = {
        "first": {"path": str(tiny_clip(folder / "first")), "weight": 0.5},
        "second": {"path": str(tiny_clip(folder / "second", seed=1)), "std": 2.0},
    }
    return RewardSettings(kind="ensemble", options={"rewards": members})


def finetuned(settings: RewardSettings, folder: Path, method: str) -> dict[int, Path]:
    """Checkpoints of steps 2, 1 and 0, each from the one before, with a teacher of its own."""
    rate = {"lora": 3e-3, "full": 2e-4}[method]
    narf = Narf(
        method=method,
        lora=Lora(rank=2),
        epochs=8,
        patience=8,
        batch_size=100,
        learning_rate=rate,
    )
    start, found = None, {}
    for step in (2, 1, 0):
        reward = load_trainable_reward(settings, name="a")
        before = reward.score(IMAGES, PROMPTS)
        noise = np.random.default_rng(step).standard_normal(len(IMAGES), dtype=np.float32)
        teacher = (before + before.std() * noise).reshape(3, 2)
        data = StepData(IMAGES.reshape(3, 2, 1, SIZE, SIZE, 3), (0,), TEXTS, teacher)
        out = folder / f"step_{step:02d}"
        finetune_step(reward, data, narf, start=start, out=out, seed=step, val_data=data)
        start = found[step] = out
    return found


def storages() -> dict[int, int]:
    """Bytes of every tensor that is alive, by where they lie."""
    gc.collect()
    with torch.no_grad():
        found = [
            one.untyped_storage() for one in gc.get_objects() if issubclass(type(one), torch.Tensor)
        ]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("make", [clip, ensemble])
def test_each_scores_as_loaded_by_itself(
    tmp_path: Path, make: Callable[[Path], RewardSettings], method: str
) -> None:
    settings = make(tmp_path)
    folders = {3: None, **finetuned(settings, tmp_path, method)}
    apart = {
        step: load_reward(settings, name="a", checkpoint=folder).score(IMAGES, PROMPTS)
        for step, folder in folders.items()
    }
    assert all(not np.array_equal(apart[step], apart[step - 1]) for step in (1, 2, 3))
    verifiers = load_verifiers(settings, folders, name="a")
    for step in (0, 3, 1, 1, 2, 0, 3):
        np.testing.assert_array_equal(verifiers[step].score(IMAGES, PROMPTS), apart[step])
    whole = load_reward(settings, name="a")
    assert verifiers[1].tflops(SIZE, SIZE) == whole.tflops(SIZE, SIZE)
    assert (verifiers[1].name, verifiers[1].scale) == (whole.name, whole.scale)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_finetuning_left_untouched_is_there_once(tmp_path: Path, method: str) -> None:
    """Beside the base there is, of each checkpoint, its adapter, or the tower that was trained."""
    settings = clip(tmp_path)
    folders = finetuned(settings, tmp_path, method)
    base = load_reward(settings, name="a").module
    whole = sum(weight.nbytes for weight in [*base.parameters(), *base.buffers()])
    tower = sum(
        weight.nbytes
        for name, weight in base.named_parameters()
        if name.startswith(("vision_model.", "visual_projection."))
    )
    adapter = sum(
        weight.nbytes for weight in load_file(next(folders[0].glob("*.safetensors"))).values()
    )
    before = storages()
    verifiers = load_verifiers(settings, folders, name="a")
    together = sum(size for where, size in storages().items() if where not in before)
    assert together == whole + len(folders) * {"lora": adapter, "full": tower}[method]
    assert adapter < tower / 10 or method == "full"
    # The merged weights of an adapter are there while it is the one that scores.
    for one in [*verifiers.values()] * 2:
        one.score(IMAGES, PROMPTS)
    after = sum(size for where, size in storages().items() if where not in before)
    assert after < together + 1.1 * tower


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    settings = clip(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no checkpoint, expected adapter_model"):
        load_verifiers(settings, {0: tmp_path / "empty"}, name="a")
    other = RewardSettings(path=str(tiny_clip(tmp_path / "other", size=40)))
    folders = finetuned(other, tmp_path, "full")
    with pytest.raises(UserError, match=r"step_00: not a checkpoint of this reward"):
        load_verifiers(settings, {0: folders[0]}, name="a")
    brightness = SharedReward(RewardSettings(kind="brightness"), name="b")
    assert brightness.verifier(None).score(IMAGES, PROMPTS).shape == (6,)
    with pytest.raises(UserError, match="step_00: reward b cannot be finetuned"):
        brightness.verifier(folders[0])
