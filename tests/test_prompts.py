"""Prompt files: what they may hold, how they are refused, and what is made of them."""

from __future__ import annotations

import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ttsnap.config import Splits, SplitSettings
from ttsnap.errors import UserError
from ttsnap.prompts import (
    folder_name,
    load_prompts,
    load_split,
    load_splits,
    prompts_hash,
    seed_of,
)


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
    assert all(re.fullmatch("p[0-9a-f]{11}", prompt.id) for prompt in prompts)
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
        (b'\xff\xfe[\x00"\x00\x00\xd8', "p.json: byte 6: not UTF-16 (unexpected end of data)"),
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
        ({"id": "a"}, "the key prompt is missing"),
        ({"prompt": None}, "the key prompt is missing"),
        ({"prompt": 7}, "prompt: expected a string, not 7"),
        ({"prompt": "a", "negative_prompt": 1}, "negative_prompt: expected a string, not 1"),
        ({"prompt": "a", "id": True}, "id: expected a string, not true"),
        ({"prompt": "a", "id": ["b"]}, "id: expected a string, not an array"),
        ({"prompt": "a", "id": "second"}, "the id second is already taken by item 1"),
        ({"prompt": "b", "id": "second"}, 'the same prompt as item 1: "b"'),
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


CAR, HOUSE = "A red colored car.", 'A "Fly" sign, in a house'


def csv_row(*cells: str) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"


# How published prompt lists are laid out; each holds CAR and HOUSE.
LAYOUTS = {
    "PartiPrompts.tsv": (
        f"Prompt\tCategory\tChallenge\tNote\n{CAR}\tVehicles\tBasic\t\n{HOUSE}\tArts\tComplex\tx\n",
        "Category, Challenge, Note",
    ),
    "DrawBench.csv": (
        "Prompts,Category\r\n" + csv_row(CAR, "Colors") + "\n" + csv_row(HOUSE, "Text"),
        "Category",
    ),
    "HPDv2.json": (json.dumps([CAR, HOUSE]), None),
    "HPDv2-test.json": (
        json.dumps(
            [{"image_path": ["a.jpg"], "prompt": text, "rank": [0]} for text in (CAR, HOUSE)]
        ),
        "image_path, rank",
    ),
    "GenEval.jsonl": (
        "".join(
            json.dumps({"tag": "counting", "include": [{"class": "car", "count": 1}]} | more) + "\n"
            for more in ({"exclude": [], "prompt": CAR}, {"prompt": HOUSE})
        ),
        "tag, include, exclude",
    ),
    "UniGenBench.csv": (
        "index,prompt_en,sub_dims_en\n"
        + csv_row("0", CAR, json.dumps({"Testpoints": ["Style"]}))
        + csv_row("1", HOUSE, json.dumps({"Testpoints": []})),
        "index, sub_dims_en",
    ),
    "captions_val2017.json": (
        json.dumps(
            {
                "info": {"year": 2017},
                "images": [{"id": 179765, "file_name": "000000179765.jpg"}],
                "licenses": [],
                "annotations": [
                    {"image_id": 179765, "id": 38, "caption": CAR},
                    {"image_id": 190236, "id": 182, "caption": HOUSE},
                    {"image_id": 190236, "id": 183, "caption": HOUSE},
                ],
            }
        ),
        "image_id",
    ),
    "prompts.txt": (f"{CAR}\r\n\n{HOUSE}\n", None),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_published_lists_are_read_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, encoding: str
) -> None:
    content, ignored = LAYOUTS[name]
    (tmp_path / name).write_bytes(content.encode(encoding))
    prompts = load_prompts(tmp_path / name)
    if name.startswith("captions"):
        assert [prompt.id for prompt in prompts] == ["38", "182", "183"]
        assert prompts.pop().text == HOUSE
    assert [prompt.text for prompt in prompts] == [CAR, HOUSE]
    told = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("; ignored: ")[2] for line in told] == ([ignored] if ignored else [])


def test_the_column_is_named_or_found(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("Caption,TEXT,more\na cat,a dog,a cow\n")
    with pytest.raises(UserError, match=r"p.csv: Caption and TEXT could each hold the prompts"):
        load_prompts(path)
    assert [load_prompts(path, name)[0].text for name in ("text", "Caption", "more")] == [
        "a dog",
        "a cat",
        "a cow",
    ]
    with pytest.raises(UserError, match=r"p.csv: no column words, only Caption, TEXT, more$"):
        load_prompts(path, "words")
    path.write_text("description\na cat\n")
    with pytest.raises(UserError, match=r"no column prompt or .*, only description; name the one"):
        load_prompts(path)
    with pytest.raises(UserError, match=r"no column words, only none, its items are strings"):
        load_prompts(write(tmp_path / "p.json", ["a"]), "words")


def test_numbers_are_ids_and_null_is_absent(tmp_path: Path) -> None:
    items = [
        {"prompt": "a cat", "id": 7, "negative_prompt": None, "caption": None},
        {"prompt": "a cat", "ID": "8"},
        {"prompt": "a cat", "id": None},
    ]
    seven, eight, unnamed = load_prompts(write(tmp_path / "p.json", items))
    assert (seven.id, seven.negative, eight.id) == ("7", "", "8")
    assert unnamed.id == load_prompts(write(tmp_path / "q.json", ["a cat"]))[0].id
    table = tmp_path / "p.csv"
    table.write_text("id,prompt,negative_prompt\n7,a cat,\n,a cat,\n9,a cat,a dog\n")
    assert [(one.id, one.negative) for one in load_prompts(table)] == [
        ("7", ""),
        (unnamed.id, ""),
        ("9", "a dog"),
    ]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a cat\n[photo] of a dog\n", ["a cat", "[photo] of a dog"]),
        ("[photo] of a dog\n{a|b} cat", ["[photo] of a dog", "{a|b} cat"]),
        (' ["a cat",\n "a dog"]', ["a cat", "a dog"]),
        ('{"prompt": "a cat"}\n"a dog"\n', ["a cat", "a dog"]),
        ('{"annotations": [{"id": 1, "caption": "a cat"}]}', ["a cat"]),
    ],
)
def test_standard_input_is_told_by_how_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, texts: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert [prompt.text for prompt in load_prompts("-")] == texts
    (tmp_path / "prompts.lst").write_text(content)
    assert [prompt.text for prompt in load_prompts(tmp_path / "prompts.lst")] == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a cat\n\na cat\n", 'p.txt: line 3: the same prompt as line 1: "a cat"'),
        ("p.txt", " \n", "p.txt: the list of prompts is empty"),
        ("p.jsonl", '"a"\n{"prompt": b}\n', "p.jsonl:2:12: not JSON: Expecting value"),
        ("p.jsonl", '["a", "b"]', "p.jsonl: line 1: expected a string or an object, not an array"),
        ("p.csv", "prompt\na\n1, 2\n", "p.csv: line 3: 2 cells under a header of 1; a text with"),
        ("p.csv", 'prompt\n"a" b\n', "p.csv: line 2: not CSV: ',' expected after '\"'"),
        ("p.csv", 'prompt\n"a\n', "p.csv: line 2: not CSV: unexpected end of data"),
        ("p.csv", "id,prompt\n1,a\n2,\n", "p.csv: line 3: the key prompt is missing"),
        ("p.csv", "prompt\n", "p.csv: the list of prompts is empty"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        load_prompts(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_table_may_hold_tabs_or_quotes_or_both(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text('Prompt\tNote\n"G I G G L E" in thick letters\tx\n')
    assert load_prompts(path)[0].text == '"G I G G L E" in thick letters'
    path.write_text('Prompt\tNote\n"a ""quoted""\ttab"\tx\n')
    assert load_prompts(path)[0].text == 'a "quoted"\ttab'


def test_any_id_becomes_a_folder_of_its_own(tmp_path: Path) -> None:
    assert folder_name("pe284b1b7b2a") == "pe284b1b7b2a"
    ids = ["config.json", ".", "..", "../a", "a/b", "a\\b", "a b", "A", "a", "\n", "-rf", "é", "É"]
    ids += ["x" * 500, "X" * 500, "con fig", "000000391895.jpg", "p0/../../p1", folder_name("A")]
    names = [folder_name(one) for one in ids]
    assert len({name.casefold() for name in names}) == len(ids)
    for name in names:
        (tmp_path / name).mkdir()
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_~-]{0,63}", name)
    assert len(list(tmp_path.iterdir())) == len(ids)


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
