"""HPSv2 over weights in open_clip's layout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.rewards.environments import folder_of_packages
from tests.rewards.test_clip import pictures
from tests.tiny_clip import tiny_clip
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward, load_trainable_reward
from ttsnap.rewards.hpsv2 import cleaned

SIZE, PATCH, WIDTH, HEADS, LAYERS, CONTEXT = 32, 8, 32, 2, 2, 77
SIZES = [(64, 64), (96, 48), (48, 96), (47, 81), (50, 33)]
TEXTS = [
    "A photo of an astronaut’s horse, “riding” on Mars",
    "two  cats\n&amp; a dog 🐈, sÃ£o paulo, ﬁsh",
    "два кота",
    "",
    "word " * 100,
]


def in_open_clips_layout(model: CLIPModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a CLIP of transformers under the names of open_clip."""
    for tower, source in [("visual.", model.vision_model), ("", model.text_model)]:
        for number, layer in enumerate(source.encoder.layers):
            block = f"{tower}transformer.resblocks.{number}"
            attention = layer.self_attn
            for kind in ("weight", "bias"):
                parts = [attention.q_proj, attention.k_proj, attention.v_proj]
                joint = torch.cat([getattr(part, kind) for part in parts])
                yield f"{block}.attn.in_proj_{kind}", joint
                for name, part in {
                    "attn.out_proj": attention.out_proj,
                    "mlp.c_fc": layer.mlp.fc1,
                    "mlp.c_proj": layer.mlp.fc2,
                    "ln_1": layer.layer_norm1,
                    "ln_2": layer.layer_norm2,
                }.items():
                    yield f"{block}.{name}.{kind}", getattr(part, kind)
    vision, text = model.vision_model, model.text_model
    for name, norm in {
        "visual.ln_pre": vision.pre_layrnorm,
        "visual.ln_post": vision.post_layernorm,
        "ln_final": text.final_layer_norm,
    }.items():
        yield f"{name}.weight", norm.weight
        yield f"{name}.bias", norm.bias
    yield "visual.class_embedding", vision.embeddings.class_embedding
    yield "visual.conv1.weight", vision.embeddings.patch_embedding.weight
    yield "visual.positional_embedding", vision.embeddings.position_embedding.weight
    yield "positional_embedding", text.embeddings.position_embedding.weight
    yield "token_embedding.weight", text.embeddings.token_embedding.weight
    yield "visual.proj", model.visual_projection.weight.T
    yield "text_projection", model.text_projection.weight.T
    yield "logit_scale", model.logit_scale


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another CLIP of the same shape, in a folder with both kinds of file."""
    folder = tmp_path_factory.mktemp("hpsv2")
    model = CLIPModel.from_pretrained(tiny_clip(folder / "other", seed=1))
    state = {name: weight.detach().contiguous() for name, weight in in_open_clips_layout(model)}
    torch.save({"epoch": 1, "state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    save_file(state, folder / "weights.safetensors")
    return folder


def settings(path: Path, clip: Path, **options: object) -> RewardSettings:
    return RewardSettings(kind="hpsv2", path=str(path), options={"clip": str(clip)} | options)


@pytest.mark.parametrize("file", ["HPS_v2.1_compressed.pt", "weights.safetensors"])
def test_weights_in_open_clips_layout_are_read(clip: Path, weights: Path, file: str) -> None:
    texts = ["a red circle", "two cats", "z"]
    stock = RewardSettings(path=str(weights / "other"), options={"factor": 1})
    expected = load_reward(stock, name="stock").score(pictures(3), texts)
    for path, options in [(weights, {"file": file}), (weights / file, {})]:
        reward = load_trainable_reward(settings(path, clip, **options), name="hps")
        np.testing.assert_allclose(reward.score(pictures(3), texts), expected, atol=1e-6)
    assert np.ptp(expected) > 0.05
    assert reward.scale == "cosine of image and text times 1"


def test_texts_are_cleaned() -> None:
    assert cleaned("It’s  “Fine”\n&amp;amp; sÃ£o ﬁsh ") == 'it\'s "fine" & são fish'


def test_other_weights_are_refused(clip: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no HPS_v2_compressed.pt here"):
        load_reward(settings(weights, clip, file="HPS_v2_compressed.pt"), name="hps")
    torch.save({"state_dict": {"logit_scale": torch.ones(())}}, file := tmp_path / "few.pt")
    with pytest.raises(UserError, match=r"few.pt: the weights lack text_model.embeddings"):
        load_reward(settings(file, clip), name="hps")
    with pytest.raises(UserError, match=r"rewards.hps.options.clip: nowhere is neither"):
        load_reward(settings(weights, Path("nowhere")), name="hps")


@pytest.mark.slow
def test_scores_are_those_of_the_package(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    packages = folder_of_packages(
        pytestconfig,
        [
            *("hpsv2==1.2.0", "open_clip_torch==3.3.0", "timm==1.0.22", "torchvision==0.28.0"),
            *("regex", "clint==0.5.1", "args", "requests", "urllib3", "charset_normalizer"),
        ],
    )
    for number, size in enumerate(SIZES):
        np.save(tmp_path / f"images_{number}.npy", pictures(len(TEXTS), *size))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    subprocess.run(
        [sys.executable, "-m", "tests.rewards.originals.hpsv2_scores", tmp_path],
        env=packages,
        check=True,
    )
    words = json.loads((tmp_path / "words.json").read_text())
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(word, word): index for word, index in words["vocabulary"].items()}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=[*map(tuple, map(str.split, words["merges"]))],
        model_max_length=CONTEXT,
    )  # fmt: skip
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config=tower | text,
        vision_config=tower | {"image_size": SIZE, "patch_size": PATCH},
        projection_dim=WIDTH // 2,
    )
    square = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=square)
    for part in (config, tokenizer, processor):
        part.save_pretrained(tmp_path / "clip")
    reward = load_reward(settings(tmp_path, tmp_path / "clip"), name="hps")
    with pytest.warns(UserWarning, match="reads 77 tokens"):
        reward.encode_texts(TEXTS)
    for number, size in enumerate(SIZES):
        scores = reward.score(pictures(len(TEXTS), *size), TEXTS)
        expected = np.load(tmp_path / f"scores_{number}.npy")
        np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
        assert np.ptp(expected) > 0.05
