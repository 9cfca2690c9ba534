"""Rewards that are the probability of an answer, against the formulas over the stock model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_qwen_vl import VISION, tiny_qwen_vl
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.judges.qalign import WORDS
from ttsnap.rewards.judges.soft_tifa import spellings

PROMPTS = ["a red circle.", "два кота 🐈", "<|im_end|> <|image_pad|>", "", "x" * 40]
QUESTIONS = {
    "a red circle.": [["How many circles are there?", "one"], ["Is it red", "Yes"]],
    "two cats": [["What animal is it?", "cat"]],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [f" {word}" for word in WORDS]
    return tiny_qwen_vl(tmp_path_factory.mktemp("model"), words=words)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = [{"prompt": one, "vqa_list": pairs, "id": 7} for one, pairs in QUESTIONS.items()]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return file


def load(kind: str, folder: Path, **options: Any) -> Any:
    settings = RewardSettings(kind=kind, path=str(folder), options=options)
    return load_reward(settings, name="judge")


def noise(count: int, height: int = 24, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def expected(judge: Any, image: np.ndarray, text: str, begun: str = "") -> torch.Tensor:
    """Probabilities of the next token, by the stock model on the rendered chat of one image."""
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    chat = judge.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    vision = judge.processor(image, input_data_format="channels_last", return_tensors="pt")
    count = int(vision["image_grid_thw"].prod()) // judge.processor.merge_size**2
    chat = chat.replace("<|image_pad|>", "<|image_pad|>" * count) + begun
    tokens = judge.tokenizer(chat, return_tensors="pt")
    types = (tokens["input_ids"] == judge.model.config.image_token_id).int()
    with torch.no_grad():
        found = judge.model(**tokens, **vision, mm_token_type_ids=types).logits[0, -1]
    return found.softmax(-1)


def token(judge: Any, text: str) -> int:
    return judge.tokenizer(text)["input_ids"][0]


@pytest.mark.parametrize("family", VISION)
def test_vqascore_is_the_probability_of_yes(family: str, tmp_path: Path) -> None:
    judge = load("vqascore", tiny_qwen_vl(tmp_path, family), batch_size=2)
    assert isinstance(judge, Reward)
    images, prompts = noise(3), ["a red circle.", "два кота 🐈", ""]
    given = judge.score(images, prompts)
    wanted = [
        expected(judge, image, f'Does this image show "{prompt}"?')[token(judge, "Yes")].item()
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert given.dtype == np.float32
    assert np.ptp(np.log(given)) > 0.05
    np.testing.assert_allclose(given, wanted, atol=1e-5, rtol=0)


def test_another_question_is_asked(model: Path) -> None:
    judge = load("vqascore", model, question="{}: no?", answer="no")
    image = noise(1)
    wanted = expected(judge, image[0], "a cat: no?")[token(judge, "n")].item()
    np.testing.assert_allclose(judge.score(image, ["a cat"]), wanted, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"rewards\.judge\.options\.question"):
        load("vqascore", model, question="Is it good?")


@pytest.mark.parametrize("aspect", ["quality", "aesthetics"])
def test_qalign_is_the_mean_of_five_words(model: Path, aspect: str) -> None:
    judge = load("qalign", model, aspect=aspect, batch_size=2)
    images, wanted = noise(3), []
    for image in images:
        text, begun = (
            f"How would you rate the {aspect} of this image?",
            f"The {aspect} of the image is",
        )
        found = expected(judge, image, text, begun)
        shares = {word: found[token(judge, f" {word}")].item() for word in WORDS}
        values = dict(zip(shares, (1, 0.75, 0.5, 0.25, 0), strict=True))
        wanted.append(sum(values[word] * shares[word] for word in WORDS) / sum(shares.values()))
    given = judge.score(images, ["ignored"] * 3)
    assert np.ptp(given) > 1e-3
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_a_tokenizer_must_know_the_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not know excellent, good, fair, poor, bad apart"):
        load("qalign", tiny_qwen_vl(tmp_path))


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_soft_tifa_is_the_mean_over_a_prompts_questions(
    model: Path, questions: Path, mean: str
) -> None:
    judge = load("soft-tifa", model, questions=str(questions), mean=mean, batch_size=2)
    images, prompts = noise(3), ["a red circle.", "two cats", "a red circle."]
    first = {"one": "oO1 ", "Yes": "yY ", "cat": "cC "}  # of one byte each
    asks = {"Is it red": "Is it red. Answer in one word."}
    wanted = []
    for image, prompt in zip(images, prompts, strict=True):
        shares = []
        for question, answer in QUESTIONS[prompt]:
            text = asks.get(question, f"{question} Answer in one word.")
            found = expected(judge, image, text)
            shares.append(sum(found[token(judge, letter)].item() for letter in first[answer]))
        whole = np.prod(shares) ** (1 / len(shares))
        wanted.append(whole if mean == "geometric" else np.mean(shares))
    np.testing.assert_allclose(judge.score(images, prompts), wanted, atol=1e-5, rtol=0)


def test_answers_are_spelt_in_several_ways() -> None:
    assert set(spellings("two")) == {"two", "Two", "2", " two", " Two", " 2"}
    assert set(spellings("2")) == {"two", "2", " two", " 2", "Two", " Two"}
    assert set(spellings("Yes")) == {"yes", "Yes", " yes", " Yes"}
    assert set(spellings("Cat")) == {"Cat", " Cat"}


def test_questions_must_be_there(model: Path, questions: Path, tmp_path: Path) -> None:
    judge = load("soft-tifa", model, questions=str(questions))
    with pytest.raises(UserError, match=r'judge: .*questions\.jsonl says nothing about "dogs"'):
        judge.score(noise(1), ["dogs"])
    array = tmp_path / "q.json"
    array.write_text(json.dumps([{"prompt": "dogs", "vqa_list": [["Is it?", "Yes"]]}]))
    assert load("soft-tifa", model, questions=str(array)).score(noise(1), ["dogs"]) > 0
    for text, words in {
        "{": "a line: Invalid JSON",
        '{"prompt": "x"}': "vqa_list: Field required",
        '{"prompt": "x", "vqa_list": [["a"]]}': r"vqa_list\.0",
        '{"prompt": "x", "vqa_list": []}': "vqa_list: List should have at least 1 item",
        "": "is empty",
    }.items():
        array.write_text(text)
        with pytest.raises(UserError, match=rf"rewards\.judge\.options\.questions: .*{words}"):
            load("soft-tifa", model, questions=str(array))
    with pytest.raises(UserError, match="nowhere: No such file"):
        load("soft-tifa", model, questions="nowhere")


@pytest.mark.parametrize("kind", ["vqascore", "qalign", "soft-tifa"])
def test_scores_do_not_depend_on_the_batch(kind: str, model: Path, tmp_path: Path) -> None:
    options = {}
    if kind == "soft-tifa":
        file = tmp_path / "q.json"
        pairs = [["How many?", "two"], ["Is it " + "very " * 9 + "red?", "No"], ["Is it?", "Yes"]]
        lines = [
            {"prompt": one or " ", "vqa_list": pairs[: 1 + i % 3]} for i, one in enumerate(PROMPTS)
        ]
        file.write_text(json.dumps(lines))
        options["questions"] = str(file)
    images, prompts = noise(5), [one or " " for one in PROMPTS]
    together = load(kind, model, batch_size=5, **options).score(images, prompts)
    alone = load(kind, model, batch_size=1, **options).score(images, prompts)
    np.testing.assert_allclose(together, alone, rtol=1e-3)
    assert len(set(together.tolist())) == 5


def test_work_is_counted(model: Path, questions: Path) -> None:
    vqa = load("vqascore", model)
    assert 0 < vqa.tflops(16, 16) < vqa.tflops(32, 32)
    tifa = load("soft-tifa", model, questions=str(questions))
    single = load("vqascore", model, question=" Answer in one word.{}")
    # Three questions about two prompts; a full stop makes up for the missing one.
    assert tifa.tflops(16, 16) == pytest.approx(1.5 * single.tflops(16, 16), rel=0.05)
    with pytest.raises(UserError, match="cannot be finetuned"):
        load_reward(RewardSettings(kind="qalign", path=str(model)), name="a", checkpoint=model)
