"""The OCR reward, with a tiny TrOCR of the real classes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoTokenizer,
    RobertaTokenizer,
    TrOCRConfig,
    TrOCRForCausalLM,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.rewards.test_clip import pictures
from tests.tiny_clip import tiny_clip
from ttsnap.config import RewardSettings
from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward
from ttsnap.rewards.ocr import edits, likeness

SIZE, TOKENS = 24, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trocr")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = RobertaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]
    )
    vision = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=SIZE, patch_size=8,
    )  # fmt: skip
    text = TrOCRConfig(
        vocab_size=len(pieces), d_model=32, decoder_layers=2, decoder_attention_heads=2,
        decoder_ffn_dim=64, max_position_embeddings=64, cross_attention_hidden_size=32,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionEncoderDecoderModel(encoder=ViTModel(vision), decoder=TrOCRForCausalLM(text))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(8)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 2
    model.config.pad_token_id = model.generation_config.pad_token_id = 1
    model.generation_config.eos_token_id = 2
    for part in (model, tokenizer, ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})):
        part.save_pretrained(folder)
    return folder


def load(folder: Path, **options: Any) -> Any:
    options = {"max_tokens": TOKENS, **options}
    return load_reward(RewardSettings(kind="ocr", path=str(folder), options=options), name="ocr")


def read_by_stock(folder: Path, image: np.ndarray) -> str:
    """Greedy decoding by hand, one image at a time."""
    model = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    pixels = ViTImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
    tokens = [2]
    with torch.no_grad():
        for _ in range(TOKENS):
            found = model(**pixels, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            tokens.append(int(found.argmax()))
            if tokens[-1] == 2:
                break
    return AutoTokenizer.from_pretrained(folder).decode(tokens, skip_special_tokens=True)


def distance(first: str, second: str) -> int:
    """By the definition."""

    @lru_cache(None)
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        changed = of(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, changed)

    return of(len(first), len(second))


def test_scores_follow_from_what_the_stock_model_reads(folder: Path) -> None:
    reward = load(folder, batch_size=2)
    assert isinstance(reward, Reward)
    images = pictures(3, 40, 30)
    read = [read_by_stock(folder, image) for image in images]
    assert len(set(read)) > 1
    assert reward.read(images) == read
    target = read[0].replace('"', "").lower()[2:]
    scores = reward.score(images, [f'a sign "{target}"', "a sign “shop”", "say 'no', «Kaffee»"])
    wanted = [" ".join(text.lower().split()) for text in (target, "shop", "Kaffee")]
    found = [" ".join(text.lower().split()) for text in read]
    expected = [
        1 - distance(one, other) / max(len(one), len(other))
        for one, other in zip(found, wanted, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores[0] > 0.5 > scores[1]


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edits_are_the_least(first: str, second: str) -> None:
    assert edits(first, second) == distance(first, second)


def test_case_and_spaces_do_not_count() -> None:
    assert likeness(" Open\n 24 hours ", "OPEN 24 HOURS") == 1
    assert likeness("", "") == 1
    assert likeness("", "open") == 0
    assert likeness("cart", "card") == 0.75


def test_work_is_that_of_the_longest_reading(folder: Path) -> None:
    short, long = (load(folder, max_tokens=count).tflops(32, 32) for count in (2, 12))
    assert 0 < short < long == load(folder).tflops(99, 50)


def test_what_cannot_be_read_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reward ocr: prompt 'a sign' quotes no text to be read"):
        load(folder).score(pictures(2), ['a "b"', "a sign"])
    with pytest.raises(
        UserError, match="expected an image encoder with a text decoder, found clip"
    ):
        load(tiny_clip(tmp_path / "clip"))
    settings = RewardSettings(kind="ocr", path=str(folder))
    with pytest.raises(UserError, match="cannot be finetuned"):
        load_reward(settings, name="ocr", checkpoint=tmp_path)
