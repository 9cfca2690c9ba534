from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.rewards.test_clip import pictures
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.base import Reward

LABELS = ["tench, Tinca tinca", "crane", "cat", "Persian cat", "crane, lifting gear"]
SIZE = 24


def tiny_classifier(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                image_size=SIZE,
                patch_size=8,
                id2label=dict(enumerate(LABELS)),
                label2id={label: index for index, label in enumerate(LABELS)},
            )
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(8)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("classifier"))


def load(folder: Path, **options: object) -> Reward:
    settings = RewardSettings(kind="classifier", path=str(folder), options=options)
    return load_reward(settings, name="vit")


def probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    processor = ViTImageProcessorPil.from_pretrained(folder)
    model = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**processor(list(images), return_tensors="pt")).logits
    return logits.softmax(1).numpy()


def test_scores_are_probabilities_of_the_label(folder: Path) -> None:
    images = pictures(4, 40, 30)
    expected = probabilities(folder, images)
    for label, index in [("Tinca Tinca", 0), ("tench", 0), ("cat", 2), ("persian cat", 3)]:
        scores = load(folder, label=label).score(images, ["whatever"] * 4)
        np.testing.assert_allclose(scores, expected[:, index], atol=1e-6)
    assert np.ptp(expected[:, 0]) > 0.01


def test_the_prompt_names_the_class(folder: Path) -> None:
    images = pictures(4)
    prompts = ["a tench, on grass", "my Persian-cat!", "cat", "lifting  gear at dusk"]
    expected = probabilities(folder, images)[np.arange(4), [0, 3, 2, 4]]
    np.testing.assert_allclose(load(folder).score(images, prompts), expected, atol=1e-6)


def test_other_names_are_refused(folder: Path) -> None:
    reward = load(folder)
    with pytest.raises(UserError, match="reward vit: prompt 'a cathedral' names none of the 5"):
        reward.score(pictures(1), ["a cathedral"])
    with pytest.raises(UserError, match=r"prompt 'a crane': crane is the name of classes \[1, 4\]"):
        reward.score(pictures(1), ["a crane"])
    with pytest.raises(UserError, match=r"rewards.vit.options.label 'dog' names none of the 5"):
        load(folder, label="dog")
    assert load(folder, label="crane, lifting gear").score(pictures(1), [""]) < 1


def test_it_can_be_trained_and_counted(folder: Path) -> None:
    reward = load_trainable_reward(RewardSettings(kind="classifier", path=str(folder)), name="vit")
    images = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    reward.forward(reward.pixel_values(images), reward.encode_texts(["cat"] * 2)).sum().backward()
    assert images.grad is not None
    tokens, width = (SIZE // 8) ** 2 + 1, 32
    layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * 64
    expected = 2 * ((tokens - 1) * 8 * 8 * 3 * width + 2 * layer + width * len(LABELS)) / 1e12
    assert reward.tflops(64, 64) == pytest.approx(expected)


def test_a_folder_without_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing"):
        load(tmp_path / "nothing")
