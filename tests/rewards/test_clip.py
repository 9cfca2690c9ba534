from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.tiny_clip import CONTEXT, SIZE, clip_reward, tiny_clip
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import TrainableReward
from ttsnap.rewards.clip import ClipReward

TEXTS = ["a red circle", "два кота 🐈", "a red circle", "", 'quotes " and\nlines']


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def reward(folder: Path) -> ClipReward:
    return clip_reward(folder)


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    shape = (count, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def model_card_scores(folder: Path, images: np.ndarray, texts: list[str]) -> np.ndarray:
    """PickScore's snippet, one pair at a time."""
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    )
    model = AutoModel.from_pretrained(folder).eval()
    arguments = {"truncation": True, "max_length": CONTEXT, "return_tensors": "pt"}
    scores = []
    for image, text in zip(images, texts, strict=True):
        inputs = processor(images=image, text=text, padding=True, **arguments)
        with torch.no_grad():
            scores.append(model(**inputs).logits_per_image.item())
    return np.array(scores, np.float32)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (96, 96), (47, 81), (50, 33), (20, 24), (SIZE, 40)])
def test_scores_are_the_model_cards(
    folder: Path, reward: ClipReward, size: tuple[int, int]
) -> None:
    images = pictures(len(TEXTS), *size)
    stock = CLIPImageProcessorPil.from_pretrained(folder)(list(images), return_tensors="pt")
    assert torch.equal(reward.pixel_values(images), stock["pixel_values"])
    scores = reward.score(images, TEXTS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, model_card_scores(folder, images, TEXTS), atol=1e-5, rtol=0)
    assert np.ptp(scores) > 0.5


def test_long_texts_are_cut_with_one_warning(folder: Path, reward: ClipReward) -> None:
    texts = ["z" * CONTEXT, "b" * 1000, "fits"]
    with pytest.warns(UserWarning, match="reads 48 tokens"):
        scores = reward.score(pictures(3), texts)
    reward.score(pictures(1), ["c" * 1000])
    np.testing.assert_allclose(scores, model_card_scores(folder, pictures(3), texts), atol=1e-5)


def test_a_text_is_encoded_once(reward: ClipReward) -> None:
    encoded = []
    reward.module.text_model.register_forward_hook(
        lambda module, arguments, keywords, output: encoded.append(len(keywords["input_ids"])),
        with_kwargs=True,
    )
    reward.score(pictures(5), TEXTS)
    assert encoded == [4]
    reward.score(pictures(5), TEXTS[::-1])
    assert encoded == [4]


def test_scores_do_not_depend_on_the_batch(reward: ClipReward) -> None:
    images = np.concatenate([pictures(70), pictures(70)])
    texts = [TEXTS[i % 5] for i in range(140)]
    together = reward.score(images, texts)
    alone = [reward.score(images[i : i + 1], texts[i : i + 1])[0] for i in range(140)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (64, 80)])
def test_float_images_score_alike_and_carry_gradients(
    reward: ClipReward, size: tuple[int, int]
) -> None:
    smooth = np.random.default_rng(0).random((3, 3, 4, 4))
    images = np.clip(np.kron(smooth, np.ones((size[0] // 4, size[1] // 4))), 0, 1)
    whole = np.round(images * 255)
    floats = torch.tensor(whole / 255, dtype=torch.float32, requires_grad=True)
    scores = reward.forward(reward.pixel_values(floats), reward.encode_texts(TEXTS[:3]))
    exact = reward.score(whole.astype(np.uint8).transpose(0, 2, 3, 1), TEXTS[:3])
    np.testing.assert_allclose(scores.detach(), exact, atol=0.05)
    scores.sum().backward()
    assert floats.grad is not None
    assert (floats.grad.flatten(1).norm(dim=1) > 0).all()


def test_a_score_that_is_no_number_is_named(reward: ClipReward) -> None:
    forward = reward.module.visual_projection.forward
    reward.module.visual_projection.forward = lambda x: forward(x).index_fill(
        0, torch.tensor([2]), torch.nan
    )
    with pytest.raises(FloatingPointError, match="image 2 of 5 scores nan"):
        reward.score(pictures(5), TEXTS)


def test_tflops_count_the_vision_tower(reward: ClipReward) -> None:
    tokens, width, inner = (SIZE // 8) ** 2 + 1, 32, 64
    layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner
    patches = (tokens - 1) * 8 * 8 * 3 * width
    expected = 2 * (patches + 2 * layer + width * 16) / 1e12
    assert reward.tflops(SIZE, SIZE) == pytest.approx(expected)
    assert reward.tflops(100, 120) == pytest.approx(expected)


def test_load_reward_by_settings(folder: Path) -> None:
    reward = load_reward(RewardSettings(path=str(folder)), name="pick")
    assert isinstance(reward, TrainableReward)
    assert reward.name == "pick"
    assert reward.scale == "cosine of image and text times 14.28"


def test_clip_score_is_the_cosine_times_a_constant(folder: Path, reward: ClipReward) -> None:
    settings = RewardSettings(path=str(folder), options={"factor": 100})
    scaled = load_reward(settings, name="clipscore")
    factor = 100 / reward.module.logit_scale.exp().item()
    expected = factor * model_card_scores(folder, pictures(5), TEXTS)
    np.testing.assert_allclose(scaled.score(pictures(5), TEXTS), expected, rtol=1e-5)
    assert scaled.scale == "cosine of image and text times 100"


@pytest.mark.parametrize("missing", ["config", "model", "tokenizer", "preprocessor_config"])
def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path, missing: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    next(broken.glob(f"{missing}.*")).unlink()
    with pytest.raises(UserError, match="broken"):
        clip_reward(broken)


def test_other_models_and_lacking_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "deep")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (tmp_path / "deep/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"weights lack vision_model.*layers\.2"):
        clip_reward(tmp_path / "deep")
    (tmp_path / "deep/config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="expected a CLIP model, found bert"):
        clip_reward(tmp_path / "deep")
    with pytest.raises(UserError, match="nowhere"):
        clip_reward(tmp_path / "nowhere")


def test_a_folder_without_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        clip_reward(folder, checkpoint=tmp_path)
