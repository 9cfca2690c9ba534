"""ImageReward from parts of transformers, and against its own package."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from transformers import BertTokenizer

from tests.rewards.environments import ROOT, environment, folder_of_packages
from tests.rewards.test_clip import pictures
from tests.tiny_image_reward import SIZE, stock, tiny_image_reward, write_tokenizer
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import TrainableReward, load_reward, load_trainable_reward
from ttsnap.rewards.image_reward import MEAN, STD

OLD = [
    "transformers==4.53.1",
    "tokenizers==0.21.4",
    "huggingface_hub==0.36.2",
    "diffusers==0.33.1",
    "datasets==3.6.0",
]
"""What the package was made for, and runs with as it is."""

BERT = {
    "vocab_size": 600,
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 256,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "add_cross_attention": True,
    "encoder_width": 1024,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
"""Settings of a small text encoder, as the package reads them from med_config.json."""

TEXTS = ["a red circle", "two cats, 3 dogs!", "", "word " * 60]
ROWS = ("input_ids", "attention_mask")
SIZES = [(64, 64), (96, 48), (48, 96), (61, 47)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_reward(tmp_path_factory.mktemp("imr"))


def settings(folder: Path, kind: str = "image-reward", **options: str) -> RewardSettings:
    tokenizer = {"tokenizer": str(folder / "tokenizer")}
    return RewardSettings(kind=kind, path=str(folder), options=tokenizer | options)


def test_weights_in_the_packages_layout_are_read(folder: Path) -> None:
    """Attention written out: only the parts' weights are taken from transformers."""
    reward = load_trainable_reward(settings(folder), name="imr")
    images, texts = pictures(3, 50, 40), TEXTS[:3]
    rows = BertTokenizer.from_pretrained(folder / "tokenizer")(
        texts, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    with torch.no_grad():
        expected = written_out(reward.pixel_values(images), *map(rows.get, ROWS))
    np.testing.assert_allclose(reward.score(images, texts), expected, atol=1e-5)
    assert np.ptp(expected) > 0.05
    assert np.ptp(reward.score(images, texts[:1] * 3)) > 0.05  # the image counts, too
    assert isinstance(reward, TrainableReward)
    assert reward.scale == "deviations from the mean of its training set"
    assert reward.tflops(64, 64) > 0


def written_out(pixels: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """The scores of `stock`, by the equations of the two transformers."""
    model = stock()

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, seen: torch.Tensor
    ) -> torch.Tensor:
        parts = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
        logits = parts[0] @ parts[1].mT / parts[0].shape[-1] ** 0.5
        weights = logits.masked_fill(~seen[:, None, None].bool(), -torch.inf).softmax(-1)
        return (weights @ parts[2]).transpose(1, 2).flatten(2)

    vision = model.vision
    patches = vision.embeddings.patch_embedding(pixels).flatten(2).mT
    first = vision.embeddings.class_embedding.expand(len(patches), -1, -1)
    x = torch.cat([first, patches], 1) + vision.embeddings.position_embedding
    all_patches = torch.ones(x.shape[:2])
    for layer in vision.encoder.layers:
        parts = layer.self_attn.qkv(layer.layer_norm1(x)).chunk(3, -1)
        x = x + layer.self_attn.projection(attend(*parts, 1, all_patches))
        inner = nn.functional.gelu(layer.mlp.fc1(layer.layer_norm2(x)))
        x = x + layer.mlp.fc2(inner)
    x = vision.post_layernorm(x)

    embeddings = model.text.embeddings
    places = embeddings.position_embeddings.weight[: tokens.shape[1]]
    y = embeddings.LayerNorm(embeddings.word_embeddings(tokens) + places)
    for layer in model.text.encoder.layer:
        for part, crosses in [(layer.attention, False), (layer.crossattention, True)]:
            source, seen = (x, all_patches) if crosses else (y, mask)
            look = part.self
            found = attend(look.query(y), look.key(source), look.value(source), 2, seen)
            y = part.output.LayerNorm(part.output.dense(found) + y)
        inner = nn.functional.gelu(layer.intermediate.dense(y))
        y = layer.output.LayerNorm(layer.output.dense(inner) + y)
    return ((model.head(y[:, 0])[:, 0] - MEAN) / STD).numpy()


def test_a_pixel_matters_and_gradients_flow(folder: Path) -> None:
    reward = load_trainable_reward(settings(folder), name="imr")
    images = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    reward.forward(reward.pixel_values(images), reward.encode_texts(["a", "b"])).sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).norm(dim=1) > 1e-3).all()


def test_long_prompts_are_cut_with_one_warning(folder: Path) -> None:
    reward = load_reward(settings(folder), name="imr")
    with pytest.warns(UserWarning, match="reward imr reads 35 tokens of a prompt"):
        reward.score(pictures(1), [TEXTS[3]])


def test_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    state = torch.load(folder / "ImageReward.pt", weights_only=True)
    (tmp_path / "med_config.json").write_text((folder / "med_config.json").read_text())
    write_tokenizer(tmp_path / "tokenizer")

    def lacking(name: str) -> str:
        torch.save({key: weight for key, weight in state.items() if key != name}, tmp_path / "a.pt")
        with pytest.raises(UserError) as refused:
            load_reward(settings(tmp_path, file="a.pt"), name="imr")
        return str(refused.value)

    for name, words in [
        ("blip.visual_encoder.pos_embed", "lack blip.visual_encoder.pos_embed"),
        ("blip.visual_encoder.blocks.1.norm2.bias", "lack encoder.layers.1.layer_norm2.bias"),
        ("blip.text_encoder.encoder.layer.0.crossattention.self.key.weight", "crossattention"),
        ("mlp.layers.7.bias", "a.pt: not the weights of this model"),
    ]:
        assert words in lacking(name)
    with pytest.raises(UserError, match=r"no ImageReward\.pt here"):
        load_reward(settings(tmp_path), name="imr")


@pytest.mark.skipif(importlib.util.find_spec("ImageReward") is not None, reason="is installed")
def test_the_package_says_what_it_needs(folder: Path) -> None:
    with pytest.raises(UserError, match=r"rewards.a: .* envs/image-reward.yaml"):
        load_reward(settings(folder, "image-reward-package"), name="a")


def run(python: Path, script: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Run a module in a folder that it is given; gives what it wrote to stderr."""
    command = [python, "-m", *f"tests.rewards.{script}".split(), folder]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_scores_are_the_packages_and_it_can_be_finetuned(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    listed = yaml.safe_load((ROOT / "envs/image-reward.yaml").read_text())["dependencies"]
    python = environment(pytestconfig, listed[-1]["pip"])
    write_tokenizer(tmp_path / "bert-base-uncased")
    (tmp_path / "med_config.json").write_text(json.dumps(BERT))
    for number, size in enumerate(SIZES):
        np.save(tmp_path / f"images_{number}.npy", pictures(len(TEXTS), *size))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    run(python, "originals.image_reward_scores", tmp_path, folder_of_packages(pytestconfig, OLD))
    expected = [np.load(tmp_path / f"scores_{number}.npy") for number in range(len(SIZES))]

    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    for kind, where in [("image-reward", sys.executable), ("image-reward-package", python)]:
        said = run(Path(where), f"image_reward_finetuned {kind}", tmp_path, variables)
        assert "imagereward reads 35 tokens of a prompt" in said
        result = json.loads((tmp_path / f"{kind}.json").read_text())
        for found, scores in zip(result["found"], expected, strict=True):
            np.testing.assert_allclose(found, scores, atol=1e-5, rtol=0)
            assert np.ptp(scores) > 0.05
        assert result["losses"][-1] < result["losses"][0]
        np.testing.assert_allclose(result["reloaded"], result["finetuned"], atol=1e-5)
        assert not np.allclose(result["reloaded"], result["found"][0], atol=1e-2)
        assert result["tflops"] > 0
