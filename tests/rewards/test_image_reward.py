"""ImageReward against its own package, in the environment that envs/image-reward.yaml describes."""

from __future__ import annotations

import importlib.util
import json
import os
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.rewards.environments import ROOT, environment, folder_of_packages
from tests.rewards.test_clip import pictures
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward

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


@pytest.mark.skipif(importlib.util.find_spec("ImageReward") is not None, reason="is installed")
def test_it_says_what_it_needs() -> None:
    settings = RewardSettings(kind="image-reward", path="x", options={"tokenizer": "y"})
    with pytest.raises(UserError, match=r"rewards.a: .* envs/image-reward.yaml"):
        load_reward(settings, name="a")


def write_tokenizer(folder: Path) -> None:
    """A BERT tokenizer that knows letters, as beginnings and as parts of words."""
    signs = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs]
    words += [f"##{sign}" for sign in signs]
    words += [first + second for first in "aeioutr" for second in string.ascii_lowercase]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


def run(python: Path, script: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Run a module in a folder that it is given; gives what it wrote to stderr."""
    command = [python, "-m", f"tests.rewards.{script}", folder]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_scores_are_the_packages_and_can_be_finetuned(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    listed = yaml.safe_load((ROOT / "envs/image-reward.yaml").read_text())["dependencies"]
    python = environment(pytestconfig, listed[-1]["pip"])
    write_tokenizer(tmp_path / "bert-base-uncased")
    (tmp_path / "med_config.json").write_text(json.dumps(BERT))
    np.save(tmp_path / "images.npy", pictures(len(TEXTS), 61, 47))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    run(python, "originals.image_reward_scores", tmp_path, folder_of_packages(pytestconfig, OLD))
    expected = np.load(tmp_path / "scores.npy")

    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    said = run(python, "image_reward_finetuned", tmp_path, variables)
    assert "imagereward reads 35 tokens of a prompt" in said
    result = json.loads((tmp_path / "result.json").read_text())
    np.testing.assert_allclose(result["found"], expected, atol=1e-5, rtol=0)
    assert np.ptp(expected) > 0.05
    assert result["losses"][-1] < result["losses"][0]
    np.testing.assert_allclose(result["reloaded"], result["finetuned"], atol=1e-5)
    assert not np.allclose(result["reloaded"], result["found"], atol=1e-2)
    assert result["tflops"] > 0
