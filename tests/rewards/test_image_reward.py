"""ImageReward against its own package, in the environment that envs/image-reward.yaml describes."""

from __future__ import annotations

import importlib.util
import json
import os
import string
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.rewards.environments import ROOT, environment
from tests.rewards.test_clip import pictures
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward

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


@pytest.mark.slow
def test_scores_are_the_packages_and_can_be_finetuned(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    listed = yaml.safe_load((ROOT / "envs/image-reward.yaml").read_text())["dependencies"]
    python = environment(pytestconfig, listed[-1]["pip"])
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    help_of_a_stage = [python, "-m", "ttsnap.stages.rewards", "--help"]
    subprocess.run(help_of_a_stage, env=variables, check=True, stdout=subprocess.DEVNULL)

    write_tokenizer(tmp_path / "bert-base-uncased")
    np.save(tmp_path / "images.npy", pictures(len(TEXTS), 61, 47))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    script = "tests.rewards.originals.image_reward_scores"
    done = subprocess.run(
        [python, "-m", script, tmp_path],
        env=variables,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "imagereward reads 35 tokens of a prompt" in done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    np.testing.assert_allclose(result["found"], result["expected"], atol=1e-5, rtol=0)
    assert np.ptp(result["expected"]) > 0.05
    assert result["losses"][-1] < result["losses"][0]
    np.testing.assert_allclose(result["reloaded"], result["finetuned"], atol=1e-5)
    assert not np.allclose(result["reloaded"], result["found"], atol=1e-2)
    assert result["tflops"] > 0
