"""Prompt files: what they may hold, how they are refused, and what is made of them."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ttsnap.config import Splits, SplitSettings
from ttsnap.errors import UserError
from ttsnap.prompts import ID, load_prompts, load_split, load_splits, prompts_hash, seed_of


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def split(file: Path, start: int, stop: int) -> SplitSettings:
    return SplitSettings(file=str(file), start=start, stop=stop, images=1, prompts_per_job=1)


def test_strings_and_objects_may_be_mixed(tmp_path: Path) -> None:
    items = ["a cat", {"prompt": "a dog", "id": "dog-1", "negative_prompt": "blurry"}]
    cat, dog = load_prompts(write(tmp_path / "p.json", items))
    assert (cat.text, cat.negative, cat.index) == ("a cat", "", 0)
    assert (dog.id, dog.text, dog.negative, dog.index) == ("dog-1", "a dog", "blurry", 1)


def test_any_text_goes_through_unharmed(tmp_path: Path) -> None:
    texts = [
        "🌿🏥🏞, in the style of 葛飾北斎",
        "\"quotes\" and 'quotes'",
        "../../etc/passwd and C:\\windows",
        "two\nlines\tand a \0 null",
        "long " * 200,
        "  spaces around  ",
    ]
    prompts = load_prompts(write(tmp_path / "p.json", texts))
    assert [prompt.text for prompt in prompts] == texts
    assert all(ID.fullmatch(prompt.id) for prompt in prompts)
    escaped = tmp_path / "utf8.json"
    escaped.write_text("\ufeff" + json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    assert load_prompts(escaped) == prompts


def test_ids_do_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = ["a cat", {"prompt": "a cat", "negative_prompt": "blurry"}, "a dog"]
    forward = load_prompts(write(tmp_path / "a.json", texts))
    backward = load_prompts(write(tmp_path / "b.json", texts[::-1]))
    assert [prompt.id for prompt in forward] == [prompt.id for prompt in backward[::-1]]
    assert len({prompt.id for prompt in forward}) == 3
    assert prompts_hash(forward) == prompts_hash(backward[::-1]) != prompts_hash(backward)
    # Results on disk carry this id: it must never change.
    assert forward[0].id == "pe284b1b7b2a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'["a",\n "b" "c"]', "p.json:2:6: not JSON: Expecting ',' delimiter"),
        (b"", "p.json:1:1: not JSON: Expecting value"),
        (b"[" * 100_000, "p.json: not a JSON array of prompts: nested too deeply"),
        (b'["caf\xe9"]', "p.json: byte 5: not UTF-8 (invalid continuation byte)"),
        (b'\xff\xfe[\x00"\x00', "p.json: byte 0: not UTF-8 (invalid start byte)"),
        (b'{"prompt": "a"}', "p.json: expected a JSON array of prompts, not an object"),
        (b"null", "p.json: expected a JSON array of prompts, not null"),
        (b"[]", "p.json: the list of prompts is empty"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message) + "$"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("", "the prompt is empty"),
        (" \n\t", "the prompt is empty"),
        ("first", 'the same prompt as item 0: "first"'),
        (7, "expected a string or an object, not 7"),
        (True, "expected a string or an object, not true"),
        (None, "expected a string or an object, not null"),
        (["a"], "expected a string or an object, not an array"),
        ({"text": "a"}, 'unknown key "text"; expected prompt, id, negative_prompt'),
        ({"id": "a"}, "the key prompt is missing"),
        ({"prompt": None}, "prompt: expected a string, not null"),
        ({"prompt": "a", "negative_prompt": 1}, "negative_prompt: expected a string, not 1"),
        ({"prompt": "a", "id": 1}, "id: expected a string, not 1"),
        ({"prompt": "a", "id": "../a"}, 'id: "../a" is not 1 to 64 of'),
        ({"prompt": "a", "id": ".a"}, 'id: ".a" is not'),
        ({"prompt": "a", "id": "a\n"}, 'id: "a\\n" is not'),
        ({"prompt": "a", "id": ""}, 'id: "" is not'),
        ({"prompt": "a", "id": "x" * 65}, 'id: "xxx'),
        ({"prompt": "a", "id": "second"}, "the id second is already taken by item 1"),
        ({"prompt": "a", "id": "SECOND"}, "the id SECOND is already taken by item 1"),
        ("half \ud83c of a pair", "prompt: half a surrogate pair"),
    ],
)
def test_a_bad_item_is_refused_with_its_position(tmp_path: Path, item: Any, message: str) -> None:
    path = write(tmp_path / "p.json", ["first", {"prompt": "b", "id": "second"}, item])
    with pytest.raises(UserError) as caught:
        load_prompts(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: item 2: {message}")
    assert "\n" not in line


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / name}: cannot be read: ")):
        load_prompts(tmp_path / name)


def test_a_split_is_a_slice_within_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", [f"prompt {i}" for i in range(10)])
    assert [prompt.index for prompt in load_split(split(path, 3, 6))] == [3, 4, 5]
    with pytest.raises(UserError, match=r"has 10 prompts, a split wants 5 to 11"):
        load_split(split(path, 5, 11))


def test_splits_of_different_files_share_no_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", ["a", "b", "c"])
    other = write(tmp_path / "b.json", ["d", {"prompt": "b", "id": "other"}])
    apart = Splits(train=split(path, 0, 1), val=split(path, 2, 3), test=split(other, 0, 2))
    loaded = load_splits(apart)
    assert {name: [p.text for p in prompts] for name, prompts in loaded.items()} == {
        "train": ["a"],
        "val": ["c"],
        "test": ["d", "b"],
    }
    with pytest.raises(UserError) as caught:
        load_splits(apart.model_copy(update={"val": split(path, 1, 3)}))
    assert str(caught.value).startswith(
        f'{other}: item 1 of split test is also item 1 of {path}, in split val: "b"'
    )


def test_a_hundred_thousand_prompts_load_in_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", [f"a picture of the number {i}" for i in range(100_000)])
    start = time.process_time()
    assert len({prompt.id for prompt in load_prompts(path)}) == 100_000
    assert time.process_time() - start < 5


def test_seeds_are_stable_and_differ() -> None:
    # Stored trajectories carry this seed: it must never change.
    assert seed_of(0, "pe284b1b7b2a", 3) == 1774838250046596719
    seeds = {seed_of(r, p, i) for r in range(3) for p in ("a", "a1", "b") for i in range(50)}
    assert len(seeds) == 3 * 3 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.skipif("TTSNAP_SHARED" not in os.environ, reason="TTSNAP_SHARED is not set")
def test_the_released_prompt_lists_load() -> None:
    folder = Path(os.environ["TTSNAP_SHARED"]) / "data"
    for name in ("prompts_train.json", "prompts_validation.json"):
        texts = json.loads((folder / name).read_text())
        assert [prompt.text for prompt in load_prompts(folder / name)] == texts
