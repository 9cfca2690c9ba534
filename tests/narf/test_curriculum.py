from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_clip import SIZE, clip_reward, tiny_clip
from ttsnap.config import Lora, Narf, Preference
from ttsnap.errors import UserError
from ttsnap.narf.curriculum import finetune_step, validate
from ttsnap.narf.data import StepData
from ttsnap.rewards.clip import ClipReward

TEXTS = ["a red circle", "a blue ring", "two squares", "nothing"]
IMAGES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def make_data(folder: Path, seed: int = 0) -> StepData:
    """Images at two steps, noise over the final one; the teacher is the untouched reward."""
    rng = np.random.default_rng(seed)
    final = rng.integers(0, 256, (len(TEXTS), IMAGES, SIZE, SIZE, 3))
    noise = rng.integers(0, 256, (2, *final.shape))
    images = np.stack([(final + noise[0]) // 2, (final + noise[1]) // 2], axis=2).astype(np.uint8)
    prompts = [text for text in TEXTS for _ in range(IMAGES)]
    teacher = clip_reward(folder).score(final.reshape(-1, SIZE, SIZE, 3).astype(np.uint8), prompts)
    return StepData(images, (0, 1), TEXTS, teacher.reshape(len(TEXTS), IMAGES))


def settings(**options: object) -> Narf:
    return Narf(
        **{"epochs": 15, "patience": 15, "batch_size": 8, "learning_rate": 3e-3}
        | {"lora": Lora(rank=4)}
        | options
    )


def train(
    folder: Path, out: Path, start: Path | None = None, seed: int = 0, **options: object
) -> tuple[pd.DataFrame, ClipReward]:
    reward = clip_reward(folder)
    data = make_data(folder)
    history = finetune_step(
        reward, data, settings(**options), start=start, out=out, seed=seed, val_data=data
    )
    return history, reward


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next(out.glob("*.safetensors")))


@pytest.mark.parametrize("options", [{}, {"method": "full"}, {"preference": Preference(weight=1)}])
def test_a_tiny_set_is_learnt(folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    history, _ = train(folder, tmp_path / "step_05", **options)
    losses = history["loss"].dropna()
    assert losses.tail(4).mean() < 0.5 * losses.head(4).mean()
    before, after = history.iloc[0], history[history["kept"]].iloc[0]
    assert after["val_kendall_tau"] > before["val_kendall_tau"] + 0.3
    assert after["val_mse"] < before["val_mse"]
    assert history["iteration"].tolist() == list(range(31))
    assert history["val_mse"].count() == 16
    again = pd.read_csv(tmp_path / "step_05/history.csv")
    pd.testing.assert_frame_equal(again, history)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpoint_is_the_trained_reward(folder: Path, tmp_path: Path, method: str) -> None:
    _, trained = train(folder, tmp_path / "out", method=method, epochs=3)
    loaded = clip_reward(folder, checkpoint=tmp_path / "out")
    data = make_data(folder)
    images, texts = (
        data.images[:, :, 0].reshape(-1, SIZE, SIZE, 3),
        [t for t in TEXTS for _ in "1234"],
    )
    scores = trained.score(images, texts)
    np.testing.assert_array_equal(loaded.score(images, texts), scores)
    assert not np.allclose(clip_reward(folder).score(images, texts), scores, atol=0.01)
    text_tower = (reward.module.text_model.state_dict() for reward in (trained, loaded))
    untouched = clip_reward(folder).module.text_model.state_dict()
    for tower in text_tower:
        assert all(torch.equal(tower[name], weight) for name, weight in untouched.items())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_seed_gives_the_same_bits(folder: Path, tmp_path: Path, method: str) -> None:
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        train(folder, tmp_path / name, seed=seed, epochs=2, method=method)
    a, b, c = (sorted((tmp_path / name).iterdir()) for name in "abc")
    assert [file.name for file in a] == [file.name for file in b]
    assert all(x.read_bytes() == y.read_bytes() for x, y in zip(a, b, strict=True))
    assert any(x.read_bytes() != y.read_bytes() for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_continues_the_cleaner_one(folder: Path, tmp_path: Path, method: str) -> None:
    first, _ = train(folder, tmp_path / "step_06", method=method)
    start = tmp_path / "step_06"
    second, _ = train(folder, tmp_path / "step_05", start=start, method=method, epochs=1)
    begins, ends = second.iloc[0], first[first["kept"]].iloc[0]
    assert begins["val_mse"] == ends["val_mse"]
    assert begins["val_kendall_tau"] == ends["val_kendall_tau"]
    scratch, _ = train(folder, tmp_path / "scratch", method=method, epochs=1)
    assert second["loss"][1] < 0.8 * scratch["loss"][1]
    found, other = weights_of(tmp_path / "step_05"), weights_of(tmp_path / "scratch")
    assert any(not torch.equal(found[name], other[name]) for name in found)


def test_validation_keeps_what_was_best(folder: Path, tmp_path: Path) -> None:
    """At a rate this high every epoch does harm, and the start is kept."""
    data = make_data(folder)
    clean = StepData(
        data.images[:, :, :1],
        (0,),
        TEXTS,
        clip_reward(folder)
        .score(data.images[:, :, 0].reshape(-1, SIZE, SIZE, 3), [t for t in TEXTS for _ in "1234"])
        .reshape(len(TEXTS), IMAGES),
    )
    reward = clip_reward(folder)
    options = settings(learning_rate=1.0, patience=2)
    out = tmp_path / "out"
    history = finetune_step(reward, data, options, start=None, out=out, seed=0, val_data=clean)
    assert history["kept"].tolist() == [True] + [False] * 4
    assert history["val_kendall_tau"][0] == 1
    assert validate(reward, clean)["val_kendall_tau"] == 1


def test_the_rate_falls_to_half_and_the_gradient_is_clipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, norms = [], []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: None = None) -> None:
        group = self.param_groups[0]
        rates.append(group["lr"])
        norms.append(float(torch.stack([w.grad.norm() for w in group["params"]]).norm()))
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.01)
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(folder, tmp_path / "out", epochs=4, clip_norm=0.1)
    np.testing.assert_allclose(rates, 3e-3 * (1 - np.arange(8) / 16), rtol=1e-6)
    assert max(norms) <= 0.1001


def test_adapters_sit_in_the_vision_tower_alone(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "out", epochs=1, lora=Lora(rank=2, targets=["q_proj", "fc1"]))
    names = set(weights_of(tmp_path / "out"))
    assert len(names) == 2 * 2 * 2
    assert all(".vision_model." in name for name in names)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 32)
    with pytest.raises(UserError, match=r"narf\.lora\.targets"):
        train(folder, tmp_path / "none", lora=Lora(targets=["conv_in"]))


def test_a_loss_that_is_no_number_stops_at_once(folder: Path, tmp_path: Path) -> None:
    data = make_data(folder)
    data.teacher[1, 1] = np.nan
    with pytest.raises(FloatingPointError, match="loss nan in iteration 1"):
        finetune_step(
            clip_reward(folder),
            data,
            settings(),
            start=None,
            out=tmp_path / "out",
            seed=0,
            val_data=make_data(folder),
        )
    assert not (tmp_path / "out").exists()
