"""The SigLIP reward against the stock model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.rewards.test_clip import pictures
from tests.tiny_clip import tiny_clip
from tests.tiny_siglip import CONTEXT, SIZE, tiny_siglip
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import TrainableReward
from ttsnap.rewards.checkpoint import wrapping

TEXTS = ["a red circle", "два 🐈", "a red circle", "", "much longer than the context of it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_siglip(tmp_path_factory.mktemp("siglip"))


def load(folder: Path, checkpoint: Path | None = None) -> Any:
    settings = RewardSettings(kind="siglip", path=str(folder))
    return load_reward(settings, name="siglip", checkpoint=checkpoint)


def stock_scores(folder: Path, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """One pair at a time, as the documentation of the stock model shows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    model = SiglipModel.from_pretrained(folder).eval()
    scores = []
    for image, text in zip(images, texts, strict=True):
        options = {"padding": "max_length", "truncation": True, "max_length": CONTEXT}
        tokens = tokenizer([text], return_tensors="pt", **options)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            scores.append(model(**tokens, pixel_values=pixels).logits_per_image.item())
    return np.array(scores, np.float32)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (96, 96), (47, 81), (20, 30)])
def test_scores_are_the_stock_models(folder: Path, size: tuple[int, int]) -> None:
    reward = load(folder)
    assert isinstance(reward, TrainableReward)
    images = pictures(len(TEXTS), *size)
    with pytest.warns(UserWarning, match="reads 16 tokens"):
        scores = reward.score(images, TEXTS)
    np.testing.assert_allclose(scores, stock_scores(folder, images, TEXTS), atol=1e-5, rtol=0)
    assert np.ptp(scores) > 0.5
    assert reward.tflops(*size) == reward.tflops(SIZE, SIZE) > 0


def test_a_finetuned_one_is_loaded(folder: Path, tmp_path: Path) -> None:
    base = load(folder)
    images = pictures(3)
    before = base.score(images, TEXTS[:3])
    layers = "q_proj|k_proj|v_proj|out_proj|fc1|fc2"
    config = LoraConfig(target_modules=rf"(?:{base.tower})\..*(?:{layers})")
    with wrapping():
        adapted = get_peft_model(base.module, config)
    names = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(names) == 2 * 2 * 6  # two factors of six layers in each of two blocks
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    pixels, rows = base.pixel_values(images), base.encode_texts(TEXTS[:3])
    base.forward(pixels, rows).sum().backward()
    assert all(adapted.get_parameter(name).grad.abs().sum() > 0 for name in names)
    adapted.save_pretrained(tmp_path)
    after = load(folder, tmp_path).score(images, TEXTS[:3])
    with torch.no_grad():
        np.testing.assert_allclose(after, base.forward(pixels, rows).numpy(), atol=1e-4)
    assert np.abs(after - before).max() > 0.1


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a SigLIP model, found clip"):
        load(tiny_clip(tmp_path))
