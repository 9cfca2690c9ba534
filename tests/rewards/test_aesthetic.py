from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards.test_clip import pictures
from tests.tiny_clip import SIZE, tiny_clip
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.aesthetic import network

WIDTH = 16  # of the tiny CLIP's projection


class Published(nn.Module):
    """The layout of the published head, under whose names its weights are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network(WIDTH)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            name: 3 * weight if weight.ndim > 1 else weight
            for name, weight in Published().state_dict().items()
        }


@pytest.fixture(params=["head.safetensors", "head.pth"])
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, clip: Path, weights: dict[str, torch.Tensor]
) -> RewardSettings:
    file = tmp_path / request.param
    (save_file if file.suffix == ".safetensors" else torch.save)(weights, file)
    return RewardSettings(kind="aesthetic", path=str(clip), options={"head": str(file)})


def test_scores_are_those_of_clip_and_five_matrices(
    settings: RewardSettings, clip: Path, weights: dict[str, torch.Tensor]
) -> None:
    """Written out: without activations the network is a product of matrices."""
    images = pictures(5, 50, 40)
    processor = CLIPImageProcessorPil.from_pretrained(clip)
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        rows = CLIPModel.from_pretrained(clip).eval().get_image_features(pixels).pooler_output
    rows = (rows / rows.norm(dim=1, keepdim=True)).numpy().astype(np.float64)
    for layer in (0, 2, 4, 6, 7):
        matrix, offset = (weights[f"layers.{layer}.{kind}"] for kind in ("weight", "bias"))
        rows = rows @ matrix.numpy().T.astype(np.float64) + offset.numpy()
    scores = load_reward(settings, name="looks").score(images, ["any", "text"] * 2 + [""])
    np.testing.assert_allclose(scores, rows[:, 0], atol=1e-5, rtol=0)
    assert np.ptp(scores) > 0.05


def test_float_images_carry_gradients(settings: RewardSettings) -> None:
    reward = load_trainable_reward(settings, name="looks")
    images = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    reward.forward(reward.pixel_values(images), reward.encode_texts(["", "a"])).sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_tflops_hold_the_head(settings: RewardSettings, clip: Path) -> None:
    head = 2 * (WIDTH * 1024 + 1024 * 128 + 128 * 64 + 64 * 16 + 16) / 1e12
    alone = load_reward(RewardSettings(path=str(clip)), name="clip").tflops(SIZE, SIZE)
    whole = load_reward(settings, name="looks").tflops(SIZE, SIZE)
    assert whole == pytest.approx(alone + head)


def test_other_heads_are_refused(
    clip: Path, tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    def load(head: Path | str) -> None:
        load_reward(
            RewardSettings(kind="aesthetic", path=str(clip), options={"head": str(head)}),
            name="looks",
        )

    with pytest.raises(UserError, match=r"rewards.looks.options.head: nowhere is neither a local"):
        load("nowhere")
    save_file({"layers.0.weight": weights["layers.0.weight"]}, file := tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a.safetensors: not the weights of this model"):
        load(file)
    torch.save({"evil": Path}, file := tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"b.pth: cannot be read as weights"):
        load(file)
    (file := tmp_path / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"c.safetensors: cannot be read as weights"):
        load(file)
    with pytest.raises(UserError, match="head: is missing"):
        load_reward(RewardSettings(kind="aesthetic", path=str(clip)), name="looks")
