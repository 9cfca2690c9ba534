"""The shipped reward: its format, how well it reads, and that its training can be repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, CLIPModel

from ttsnap.shapes import codes, faulty, train_reward, world

FOLDER = Path(train_reward.__file__).parent / "weights" / "clip"


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_reads_like_any_clip_folder(clip: CLIPModel) -> None:
    processor = AutoProcessor.from_pretrained(FOLDER)
    scenes = [world.Scene.parse(caption) for caption in world.held_out_captions(8, seed=5)]
    images = world.render(scenes, np.random.default_rng(0))
    captions = [scene.caption for scene in scenes]
    inputs = processor(text=captions, images=list(images), padding=True, return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], train_reward.pixels(images))
    with torch.no_grad():
        logits = clip(**inputs).logits_per_image
    assert (logits.argmax(1) == torch.arange(8)).all()


def test_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 8e6


def test_tells_captions_and_pictures_apart(clip: CLIPModel) -> None:
    tokenizer = AutoProcessor.from_pretrained(FOLDER).tokenizer
    result = train_reward.evaluate(clip, tokenizer, seed=1, count=600)
    assert result["single"] > 0.95
    assert min(result["swaps"].values()) > 0.9
    assert result["pairs"] > 0.85


def test_never_trains_on_held_out_captions() -> None:
    rows = codes.sample_rows(np.random.default_rng(0), 500)
    assert not any(world.held_out(codes.scene_of(row).caption) for row in rows)


def test_codes_count_what_agrees() -> None:
    rng = np.random.default_rng(0)
    rows = codes.sample_rows(rng, 200)
    right = codes.code_of_rows(rows)
    np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1, rtol=1e-5)
    same = codes.code_of_rows(codes.mirrored(rows))
    np.testing.assert_allclose(right, same, atol=1e-6)
    for kind in ("size", "color", "shape", "background", "axis"):
        wrong = codes.code_of_rows(codes.swap(rows, kind, rng))
        assert ((right * wrong).sum(1) < 0.9).all(), kind
    # A picture without faults shows what its caption says, up to sizes and places in between.
    pictures = faulty.paint(rows, np.zeros(200, np.int64), rng)
    assert (pictures.codes * right).sum(1).mean() > 0.99


def test_training_repeats_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_reward, "BATCH", 16)
    monkeypatch.setattr(train_reward, "SAVE_EVERY", 1)
    sizes = {"steps": 3, "text_steps": 2, "judged": 16}

    class Killed(Exception):
        pass

    step, calls = train_reward.VisionTrainer.step, iter(range(3))

    def killed_at_third(self: train_reward.VisionTrainer) -> dict[str, float]:
        if next(calls) == 2:
            raise Killed
        return step(self)

    train_reward.train(tmp_path / "whole", 3, **sizes)
    with monkeypatch.context() as patch:
        patch.setattr(train_reward.VisionTrainer, "step", killed_at_third)
        with pytest.raises(Killed):
            train_reward.train(tmp_path / "killed", 3, **sizes)
    assert (tmp_path / "killed" / "training.pt").exists()
    train_reward.train(tmp_path / "killed", 3, **sizes)
    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "killed" / "training.pt").exists()
