"""HPSv3 from a checkpoint of the published layout, against the published way in stock parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from tests.rewards.environments import folder_of_packages
from tests.rewards.judges.test_answers import noise
from tests.tiny_qwen_vl import tiny_qwen_vl
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.judges.hpsv3 import PROMPT, TOKEN

PROMPTS = ["a red circle.", "<|Reward|> два кота 🐈", "x" * 40]
PIXELS = 24 * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a base and, beside them, what training made of it."""
    folder = tiny_qwen_vl(tmp_path_factory.mktemp("hpsv3"), "Qwen2VL")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer))
        layers = {0: (32, 1024), 3: (1024, 16), 5: (16, 2)}
        head = {
            f"rm_head.{place}.{kind}": tensor
            for place, widths in layers.items()
            for kind, tensor in torch.nn.Linear(*widths).state_dict().items()
        }
    # As transformers 4.45 named them.
    weights = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert {name.split(".")[0] for name in weights} == {"visual", "model", "lm_head"}
    save_file(
        {name: one.clone() for name, one in (weights | head).items()}, folder / "HPSv3.safetensors"
    )
    (folder / "asked.txt").write_text("\nRate it. {text_prompt}\n\nSo: <|Reward|>\n\nEND\n")
    return folder


def load(folder: Path, **options: Any) -> Any:
    options = {
        "base": str(folder), "instruction": str(folder / "asked.txt"), "pixels": PIXELS,
        "batch_size": 2,
    } | options  # fmt: skip
    settings = RewardSettings(kind="hpsv3", path=str(folder), options=options)
    return load_reward(settings, name="hps")


def published(reward: Any, folder: Path, image: np.ndarray, prompt: str) -> float:
    """One image, as the package does it: embeddings go in, positions are counted one by one."""
    weights = load_file(folder / "HPSv3.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.resize_token_embeddings(len(weights["model.embed_tokens.weight"]))
    renamed: dict[str, torch.Tensor] = {}
    for old, new in {"visual.": "model.visual.", "model.": "model.language_model."}.items():
        of_old = [name for name in weights if name.startswith(old)]
        renamed |= {name.replace(old, new, 1): weights[name] for name in of_old}
    model.load_state_dict(renamed | {"lm_head.weight": weights["lm_head.weight"]})
    model.eval()
    text = f"\nRate it. {prompt}\n\nSo: <|Reward|>\n\nEND\n"
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    chat = reward.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    vision = reward.processor(image, input_data_format="channels_last", return_tensors="pt")
    count = int(vision["image_grid_thw"].prod()) // reward.processor.merge_size**2
    chat = chat.replace("<|image_pad|>", "<|image_pad|>" * count)
    tokens = reward.tokenizer(chat, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        embeds = model.get_input_embeddings()(tokens)
        seen = model.model.visual(vision["pixel_values"], grid_thw=vision["image_grid_thw"])
        at = (tokens == model.config.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(at, seen.pooler_output)
        positions = torch.arange(tokens.shape[1]).view(1, 1, -1).expand(3, 1, -1)
        states = model.model.language_model(inputs_embeds=embeds, position_ids=positions)[0]
        state = states[0, tokens[0].tolist().index(reward.tokenizer.convert_tokens_to_ids(TOKEN))]
        for place in (0, 3, 5):
            state = state if place == 0 else state.relu()
            state = weights[f"rm_head.{place}.weight"] @ state + weights[f"rm_head.{place}.bias"]
    return float(state[0])


def test_scores_are_those_of_the_published_way(folder: Path) -> None:
    reward = load(folder)
    assert isinstance(reward, Reward)
    images = noise(3, 48, 80)
    given = reward.score(images, PROMPTS)
    assert given.dtype == np.float32
    assert np.ptp(given) > 1e-2
    plain = [prompt.replace("<|Reward|>", "") for prompt in PROMPTS]
    wanted = [published(reward, folder, *pair) for pair in zip(images, plain, strict=True)]
    np.testing.assert_allclose(given[[0, 2]], np.array(wanted)[[0, 2]], atol=1e-5, rtol=0)
    # A prompt's own token is plain text, and moves no score to another place.
    assert given[1] != pytest.approx(wanted[1], abs=1e-4)
    # Pictures come down, or up, to the area of training.
    grid = reward.processor(noise(1, 200, 200)[0], return_tensors="pt")["image_grid_thw"]
    assert int(grid.prod()) * 16 <= PIXELS
    assert 0 < reward.tflops(48, 80) == reward.tflops(96, 160)


def test_what_does_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "asked.txt"
    for words in (
        "Rate {text_prompt}.",
        "<|Reward|> {text_prompt}",
        "{text_prompt}<|Reward|><|Reward|>",
    ):
        text.write_text(words)
        with pytest.raises(
            UserError, match=r"rewards\.hps\.options\.instruction: .*and then, once"
        ):
            load(folder, instruction=str(text))
    with pytest.raises(UserError, match="nowhere: No such file"):
        load(folder, instruction="nowhere")
    other = tiny_qwen_vl(tmp_path / "other", "Qwen2_5_VL")
    with pytest.raises(UserError, match="expected a Qwen2-VL, found qwen2_5_vl"):
        load(folder, base=str(other))
    with pytest.raises(UserError, match=r"other: no HPSv3\.safetensors here"):
        load_reward(
            RewardSettings(kind="hpsv3", path=str(other), options={
                "base": str(folder), "instruction": str(folder / "asked.txt")
            }), name="hps",
        )  # fmt: skip
    lacking = {k: v for k, v in load_file(folder / "HPSv3.safetensors").items() if "norm" not in k}
    save_file(lacking, tmp_path / "HPSv3.safetensors")
    with pytest.raises(UserError, match="the weights lack"):
        load_reward(
            RewardSettings(kind="hpsv3", path=str(tmp_path), options={
                "base": str(folder), "instruction": str(folder / "asked.txt")
            }), name="hps",
        )  # fmt: skip


@pytest.mark.slow
def test_scores_are_those_of_the_package(pytestconfig: pytest.Config, folder: Path) -> None:
    """Its network, in the transformers that it asks for, on the same tokens and pixels."""
    packages = folder_of_packages(
        pytestconfig,
        [
            *("hpsv3==1.0.0", "transformers==4.45.2", "tokenizers==0.20.3"),
            "huggingface-hub==0.26.5",
        ],
    )
    reward, images = load(folder), noise(3, 48, 80)
    config = reward.model.config
    text, vision = config.text_config, config.vision_config
    original = {
        "vocab_size": text.vocab_size, "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size, "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads, "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False, "image_token_id": config.image_token_id, "pad_token_id": 0,
        "vision_config": {
            "depth": vision.depth, "embed_dim": vision.embed_dim, "hidden_size": vision.hidden_size,
            "mlp_ratio": vision.mlp_ratio, "num_heads": vision.num_heads,
            "patch_size": vision.patch_size,
        },
    }  # fmt: skip
    (folder / "original.json").write_text(json.dumps(original))
    inputs = {"counts": torch.ones(3), "token": torch.tensor([reward._token])}
    for number, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        text_of = reward._asked.replace(PROMPT, prompt)
        found = reward._inputs(image[None], [text_of])
        inputs |= {f"{key}_{number}": value for key, value in found.items()}
    torch.save(inputs, folder / "inputs.pt")
    command = [sys.executable, "-m", "tests.rewards.originals.hpsv3_scores", folder]
    subprocess.run(command, env=packages, check=True)
    wanted = json.loads((folder / "scores.json").read_text())
    np.testing.assert_allclose(reward.score(images, PROMPTS), wanted, atol=1e-5, rtol=0)
