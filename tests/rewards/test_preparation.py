"""Every reward's pixels against what its original does, built here step by step from Pillow."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from safetensors.torch import save_file
from transformers import CLIPModel

from tests.rewards.environments import folder_of_packages
from tests.rewards.test_aesthetic import WIDTH
from tests.rewards.test_classifier import tiny_classifier
from tests.rewards.test_hpsv2 import in_open_clips_layout
from tests.tiny_clip import SIZE, tiny_clip
from tests.tiny_image_reward import tiny_image_reward
from tests.tiny_qwen_vl import tiny_qwen_vl
from ttsnap.config import RewardSettings
from ttsnap.rewards import load_reward
from ttsnap.rewards.aesthetic import PREFIX, network
from ttsnap.rewards.frames import score_frames

SIZES = [(64, 64), (96, 48), (48, 96), (47, 81), (81, 47), (33, 50), (20, 24), (SIZE, 41)]
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Smooth pictures with an edge of noise: what a crop leaves out is told from what it keeps."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    large = [Image.fromarray(image).resize((width, height), Resampling.BICUBIC) for image in small]
    images = np.stack([np.asarray(image) for image in large])
    images[:, :, -3:] = generator.integers(0, 256, images[:, :, -3:].shape, dtype=np.uint8)
    images[:, -3:] = generator.integers(0, 256, images[:, -3:].shape, dtype=np.uint8)
    return images


def normalised(values: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """(H, W, 3) in [0, 1] as a network takes it: (3, H, W)."""
    return ((values - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


def cropped(image: np.ndarray, size: int, *, torchvision: bool) -> np.ndarray:
    """The short side resized to ``size`` and the middle cut out: OpenAI's CLIP and its heirs.

    Half a margin is rounded to even by torchvision, and down by transformers.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    height, width = int(size * height / short), int(size * width / short)
    resized = Image.fromarray(image).resize((width, height), Resampling.BICUBIC)
    top, left = (
        round(margin / 2.0) if torchvision else margin // 2
        for margin in (height - size, width - size)
    )
    box = (left, top, left + size, top + size)
    return normalised(np.asarray(resized.crop(box)) / 255, *OPENAI)


def letterboxed(image: np.ndarray, size: int) -> np.ndarray:
    """The long side resized to ``size``, in floats, on black: the package hpsv2."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    height, width = round(height * scale), round(width * scale)
    channels = [
        Image.fromarray(channel).resize((width, height), Resampling.BICUBIC)
        for channel in (image.transpose(2, 0, 1) / 255).astype(np.float32)
    ]
    black = np.zeros((size, size, 3), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    black[top : top + height, left : left + width] = np.stack(channels, axis=-1)
    return normalised(black, *OPENAI)


def warped(image: np.ndarray, size: int) -> np.ndarray:
    """Squeezed into a square: the ViT of the classifier."""
    resized = Image.fromarray(image).resize((size, size), Resampling.BILINEAR)
    return normalised(np.asarray(resized) / 255, 0.5, 0.5)


ORIGINALS = {
    "clip": partial(cropped, size=SIZE, torchvision=False),
    "aesthetic": partial(cropped, size=SIZE, torchvision=True),
    "hpsv2": partial(letterboxed, size=SIZE),
    "image-reward": partial(cropped, size=SIZE, torchvision=True),
    "classifier": partial(warped, size=24),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RewardSettings]:
    """A tiny instance of each kind."""
    folder = tmp_path_factory.mktemp("rewards")
    clip = tiny_clip(folder / "clip")
    head = {PREFIX + name: 3 * weight for name, weight in network(WIDTH).state_dict().items()}
    save_file(head, folder / "head.safetensors")
    state = dict(in_open_clips_layout(CLIPModel.from_pretrained(clip)))
    state = {name: weight.detach().contiguous() for name, weight in state.items()}
    save_file(state, folder / "hps.safetensors")
    imr = tiny_image_reward(folder / "imr")
    options = {
        "clip": (clip, {}),
        "aesthetic": (clip, {"head": str(folder / "head.safetensors")}),
        "hpsv2": (folder / "hps.safetensors", {"clip": str(clip)}),
        "image-reward": (imr, {"tokenizer": str(imr / "tokenizer")}),
        "classifier": (tiny_classifier(folder / "vit"), {"label": "cat"}),
        "qwen-vl": (tiny_qwen_vl(folder / "qwen"), {}),
    }
    return {
        kind: RewardSettings(kind=kind, path=str(path), options=more)
        for kind, (path, more) in options.items()
    }


@pytest.mark.parametrize("kind", ORIGINALS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_the_originals(
    settings: dict[str, RewardSettings], kind: str, size: tuple[int, int]
) -> None:
    reward: Any = load_reward(settings[kind], name=kind)
    images = pictures(3, *size)
    expected = np.stack([ORIGINALS[kind](image) for image in images])
    np.testing.assert_allclose(reward.pixel_values(images), expected, atol=1e-5, rtol=0)
    # What carries gradients differs only by Pillow's rounding and clipping to 8 bits.
    floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    apart = np.abs(reward.pixel_values(floats).numpy() - expected)
    assert apart.max() < 1e-5 if kind == "hpsv2" else apart.mean() < 0.5 / 255 / 0.26


@pytest.mark.parametrize("kind", ORIGINALS)
def test_frames_are_prepared_as_pictures(settings: dict[str, RewardSettings], kind: str) -> None:
    reward: Any = load_reward(settings[kind], name=kind)
    videos = pictures(6, 48, 85).reshape(2, 3, 48, 85, 3)
    expected = np.stack([ORIGINALS[kind](frame) for frame in videos.reshape(6, 48, 85, 3)])
    rows = reward.encode_texts(["a"] * 3 + ["b"] * 3)
    with torch.no_grad():
        frames = reward.forward(torch.from_numpy(expected).float(), rows).numpy()
    scores = score_frames(reward, videos, ["a", "b"], 3)
    np.testing.assert_allclose(scores, frames.reshape(2, 3).mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 96), (96, 48)])
def test_hpsv2_sees_what_the_others_cut_off(
    settings: dict[str, RewardSettings], size: tuple[int, int]
) -> None:
    first, second = pictures(2, *size)
    seen = slice(18, 78)  # the middle, and what its edges are interpolated from
    middle = (slice(None), seen) if size[0] < size[1] else (seen, slice(None))
    second[middle] = first[middle]
    both = np.stack([first, second])
    for kind, differ in [("hpsv2", True), ("clip", False)]:
        one, other = load_reward(settings[kind], name=kind).score(both, ["a", "a"])
        assert (abs(one - other) > 1e-3) == differ, kind


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (47, 81), (50, 33), (9, 9)])
def test_qwen_sees_patches_of_the_whole_picture(
    settings: dict[str, RewardSettings], size: tuple[int, int]
) -> None:
    """Sides are rounded to whole merged patches; rows of patches go window by window."""
    judge: Any = load_reward(settings["qwen-vl"], name="judge")
    patch, merge = 4, 2
    [image] = pictures(1, *size)
    height, width = (max(1, round(side / (patch * merge))) * patch * merge for side in size)
    resized = Image.fromarray(image).resize((width, height), Resampling.BICUBIC)
    pixels = normalised(np.asarray(resized) / 255, *OPENAI)
    rows = []
    step = patch * merge
    for top in range(0, height, step):
        for left in range(0, width, step):
            for y in range(top, top + step, patch):
                for x in range(left, left + step, patch):
                    part = pixels[:, y : y + patch, x : x + patch]
                    rows.append(np.stack([part, part], axis=1).ravel())  # two frames, alike
    inputs = judge._inputs(image[None], ["a"])
    assert inputs["image_grid_thw"].tolist() == [[1, height // patch, width // patch]]
    np.testing.assert_allclose(inputs["pixel_values"], rows, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_aesthetic_pixels_are_those_of_openais_package(
    settings: dict[str, RewardSettings], pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    packages = folder_of_packages(
        pytestconfig,
        ["clip-anytorch==2.6.0", "torchvision==0.28.0", "regex", "setuptools==80.10.2"],
    )
    for number, size in enumerate(SIZES):
        np.save(tmp_path / f"images_{number}.npy", pictures(2, *size))
    subprocess.run(
        [sys.executable, "-m", "tests.rewards.originals.openai_clip_pixels", tmp_path],
        env=packages,
        check=True,
    )
    reward: Any = load_reward(settings["aesthetic"], name="aesthetic")
    for number, size in enumerate(SIZES):
        expected = np.load(tmp_path / f"pixels_{number}.npy")
        np.testing.assert_allclose(reward.pixel_values(pictures(2, *size)), expected, atol=1e-6)
