"""Readers, on rows that are made up under the keys of the published files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ttsnap.bench.readers import BENCHMARKS, Item, noun_phrases, read_items
from ttsnap.errors import UserError
from ttsnap.rewards.by_prompt import read_lines
from ttsnap.rewards.geneval import Rules
from ttsnap.rewards.judges.checklist import Checks
from ttsnap.rewards.judges.soft_tifa import Questions

GENEVAL = [
    {
        "tag": "position",
        "include": [
            {"class": "yak", "count": 1},
            {"class": "kite", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a photo of a kite left of a yak",
    },
    {
        "tag": "counting",
        "include": [{"class": "yak", "count": 2}],
        "exclude": [{"class": "yak", "count": 3}],
        "prompt": "a photo of two yaks",
    },
]
GENEVAL2 = {
    "prompt": "two glass yaks",
    "atom_count": 3,
    "vqa_list": [["How many yaks are in the image?", "two"], ["Are the yaks glass?", "Yes"]],
    "skills": ["count", "attribute"],
}
UNIGENBENCH = (
    "index,prompt_en,sub_dims_en\n"
    '0,"Two yaks, in ink.","{""Primary Categories"": ""Art"", ""Secondary Categories"": ""Ink"", '
    '""Subjects"": ""Animal"", ""Sentence Structure"": ""Descriptive"", '
    '""Testpoints"": [""Style"" ""Attribute - Quantity""], '
    '""Testpoint Description"": [""ink"", ""two yaks""]}"\n'
)
FILES = {
    "geneval": "\n".join(map(json.dumps, GENEVAL)),
    "geneval2": json.dumps(GENEVAL2) + "\n",
    "drawbench": 'Prompts,Category\n"A yak, ""blue"".",Colors\nA kite.,Counting\n',
    "partiprompts": 'Prompt\tCategory\tChallenge\tNote\na "yak\tAnimals\tBasic\t\n',
    "unigenbench": UNIGENBENCH,
}
STYLES = ("anime", "concept-art", "paintings", "photo")
COLORED = {"vqa_list": [["a red yak?", "Yes"], ["a blue kite?", "Yes"]]}
EXPECTED = {
    "geneval": [
        Item(line["prompt"], line["tag"], {key: line[key] for key in line if key != "prompt"})
        for line in GENEVAL
    ],
    "geneval2": [Item("two glass yaks", "3 atoms", {"vqa_list": GENEVAL2["vqa_list"]})],
    "drawbench": [Item('A yak, "blue".', "Colors"), Item("A kite.", "Counting")],
    "partiprompts": [Item('a "yak', "Animals")],
    "unigenbench": [
        Item(
            "Two yaks, in ink.",
            "Art",
            {
                "checks": ["ink", "two yaks"],
                "vqa_list": [
                    ["Does the image show this: ink?", "Yes"],
                    ["Does the image show this: two yaks?", "Yes"],
                ],
            },
        )
    ],
    "hpdv2": [Item(f"a {style} yak", style) for style in STYLES],
    "t2i-compbench": [
        Item("a red yak and a blue kite", "color", COLORED),
        Item("two yaks", "numeracy", {"vqa_list": [["two yaks?", "Yes"]]}),
    ],
}  # fmt: skip


def published(name: str, folder: Path) -> Path:
    """A file or folder as it is published."""
    if name == "hpdv2":
        for style in STYLES:
            (folder / f"{style}.json").write_text(json.dumps([f"a {style} yak"]))
        return folder
    if name == "t2i-compbench":
        (folder / "color_val.txt").write_bytes(b"a red yak and a blue kite\r\n")
        (folder / "numeracy_val.txt").write_text("two yaks\n\n")
        return folder
    file = folder / "published"
    file.write_text(FILES[name], encoding="utf-8")
    return file


@pytest.mark.parametrize("name", EXPECTED)
def test_published_files_are_read(name: str, tmp_path: Path) -> None:
    items = read_items(name, published(name, tmp_path))
    assert items == EXPECTED[name]
    # What the items are about is what the rewards that judge them read.
    file = tmp_path / "prompts.jsonl"
    lines = [
        {"id": "0", "prompt": one.prompt, "category": one.category} | one.about for one in items
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    kinds = {"detector": Rules, "soft-tifa": Questions, "checklist": Checks}
    for kind in BENCHMARKS[name].judges:
        assert set(read_lines(str(file), "rules", kinds[kind])) == {one.prompt for one in items}


@pytest.mark.parametrize("name", [*FILES, "hpdv2", "t2i-compbench"])
def test_other_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_items(name, tmp_path / "nowhere")
    if name in FILES:
        (tmp_path / "other").write_text('{"text": "a yak"}\n{"text": "a kite"}\n')
        with pytest.raises(UserError, match=r"other: has no \w+, which the published file has"):
            read_items(name, tmp_path / "other")
    (tmp_path / "empty").write_text("")
    if name in FILES:
        with pytest.raises(UserError, match="empty: has no prompts of"):
            read_items(name, tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("The red hat was on top of the brown coat rack.", ["The red hat", "the brown coat rack"]),
        ("a cup on the left of two old boys, an oak", ["a cup", "two old boys", "an oak"]),
        ("snow", ["snow"]),
    ],
)
def test_things_are_found_in_plain_sentences(text: str, phrases: list[str]) -> None:
    assert noun_phrases(text) == phrases
