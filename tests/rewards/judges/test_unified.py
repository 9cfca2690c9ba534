"""UnifiedReward: a tiny chat model that has learnt to write grades, and texts of the real form."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.rewards.judges.test_answers import noise
from tests.tiny_qwen_vl import tiny_qwen_vl
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.judges.unified import read_grades

WORDS = ["Alignment Score (1-5): ", "\nCoherence Score (1-5): ", "\nStyle Score (1-5): "]
WRITTEN = ["2.5|4|1.5", "4|3.25|3", "4.75"]
"""About three pictures; the last text is cut short."""


def text_of(grades: str) -> str:
    return "".join(f"{word}{grade}" for word, grade in zip(WORDS, grades.split("|"), strict=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes these texts about these pictures, since it saw nothing else."""
    folder = tiny_qwen_vl(tmp_path_factory.mktemp("unified"), words=WORDS)
    (folder / "asked.txt").write_text("Grade [{prompt}]")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    for parameter in model.parameters():  # a scale that trains
        if parameter.ndim > 1:
            parameter.data.div_(4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    rows = []
    for image, grades in zip(noise(3), WRITTEN, strict=True):
        vision = processor(image, input_data_format="channels_last", return_tensors="pt")
        count = int(vision["image_grid_thw"].prod()) // processor.merge_size**2
        parts = [{"type": "image"}, {"type": "text", "text": "Grade [a cat]"}]
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        asked = tokenizer(chat.replace("<|image_pad|>", "<|image_pad|>" * count))["input_ids"]
        said = tokenizer(text_of(grades) + "<|im_end|>")["input_ids"]
        tokens = torch.tensor([asked + said])
        labels = torch.tensor([[-100] * len(asked) + said])
        types = (tokens == model.config.image_token_id).int()
        rows.append({"input_ids": tokens, "labels": labels, "mm_token_type_ids": types, **vision})
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(100):
            loss = sum(model(**row).loss for row in rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    return folder


def load(folder: Path, **options: Any) -> Any:
    options = {
        "instruction": str(folder / "asked.txt"),
        "max_tokens": 24,
        "batch_size": 2,
    } | options
    settings = RewardSettings(kind="unifiedreward", path=str(folder), options=options)
    return load_reward(settings, name="unified")


def test_scores_are_read_from_what_the_model_writes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reward, images = load(folder), noise(3)
    assert isinstance(reward, Reward)
    assert reward.write(images, ["a cat"] * 3) == [text_of(grades) for grades in WRITTEN]
    with caplog.at_level(logging.WARNING, logger="ttsnap"):
        scores = reward.score(images, ["a cat"] * 3)
    np.testing.assert_allclose(scores, [8 / 3, 10.25 / 3, np.nan], rtol=1e-6)
    (line,) = caplog.messages
    assert line == ("reward unified: image 2 of 3 has no grade in: Alignment Score (1-5): 4.75")
    style = load(folder, metric="style").score(images[:2], ["a cat"] * 2)
    assert style.tolist() == [1.5, 3]
    assert 0 < load(folder, max_tokens=2).tflops(24, 16) < reward.tflops(24, 16)


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        (
            "Alignment Score (1-5): 2.694700002670288\nCoherence Score (1-5): 2.371500015258789\n"
            "Style Score (1-5): 2.802500009536743\n",
            {"alignment": 2.694700002670288, "coherence": 2.371500015258789,
             "style": 2.802500009536743},
        ),
        (
            '---\n\nWord-wise Scores: [["a", 0.02], ["[No_mistakes]", 0.91]]\n\n'
            "Alignment Score (1-5): 4\nCoherence Score (1-5): 3.5\nStyle Score (1-5): 5",
            {"alignment": 4, "coherence": 3.5, "style": 5},
        ),
        ("**Alignment Score (1-5):** 4.5", {"alignment": 4.5}),
        ("Alignment Score (1-5): X\nStyle Score (1-5): 3", {"style": 3}),
        ("Style Score: 2\nno, Style Score (1 - 5): 4", {"style": 4}),
        ("Alignment Score (1-5): 7, Coherence Score (1-5): 0.5", {}),
        ("a fine picture", {}),
    ],
)  # fmt: skip
def test_grades_are_found_in_texts_of_all_forms(text: str, grades: dict[str, float]) -> None:
    assert read_grades(text) == grades


def test_an_instruction_has_a_place_for_the_prompt(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("Grade it")
    with pytest.raises(UserError, match=r"rewards\.unified\.options\.instruction: .*has no \{pro"):
        load(folder, instruction=str(tmp_path / "asked.txt"))
