"""The published files of benchmarks: prompts, their categories, and what their judges go by."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttsnap.errors import UserError, read_text


@dataclass(frozen=True)
class Item:
    """A prompt of a benchmark.

    Attributes:
        prompt: its text.
        category: by which results are told apart.
        about: keys that the benchmark's judge reads, JSON types.
    """

    prompt: str
    category: str
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: as its authors call it.
        source: where its files are published.
        read: of the file or folder that it is given.
        judges: kinds of rewards that can judge as it does -> their option that names a file with
            what the items are about; none where it has no judge.
        judged: what its own judge says, in words; or that there is none.
        by_category: whether its score is the mean over categories, not over prompts.
    """

    title: str
    source: str
    read: Callable[[Path], Iterator[Item]]
    judges: Mapping[str, str]
    judged: str
    by_category: bool = False


def _geneval(path: Path) -> Iterator[Item]:
    """``prompts/evaluation_metadata.jsonl``."""
    for line in _lines(path):
        prompt, tag = _texts(path, line, "prompt", "tag")
        about = {key: value for key, value in line.items() if key != "prompt"}
        yield Item(prompt, tag, about)


def _geneval2(path: Path) -> Iterator[Item]:
    """``geneval2_data.jsonl``; categories are numbers of atoms."""
    for line in _lines(path):
        (prompt,) = _texts(path, line, "prompt")
        atoms, pairs = _values(path, line, "atom_count", "vqa_list")
        yield Item(prompt, f"{atoms} atoms", {"vqa_list": pairs})


def _drawbench(path: Path) -> Iterator[Item]:
    """The authors' table as CSV, columns Prompts and Category."""
    for row in _table(path, ","):
        prompt, category = _texts(path, row, "prompts", "category")
        yield Item(prompt, category)


def _partiprompts(path: Path) -> Iterator[Item]:
    """``PartiPrompts.tsv``."""
    for row in _table(path, "\t"):
        prompt, category = _texts(path, row, "prompt", "category")
        yield Item(prompt, category)


def _hpdv2(path: Path) -> Iterator[Item]:
    """The folder with ``anime.json``, ``concept-art.json``, ``paintings.json``, ``photo.json``."""
    for style in ("anime", "concept-art", "paintings", "photo"):
        file = path / f"{style}.json"
        found = _parsed(file, _text(file))
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise UserError(f"{file}: expected a JSON array of prompts")
        for prompt in found:
            yield Item(prompt, style)


COMPBENCH = (
    *("color", "shape", "texture", "spatial", "3d_spatial", "non_spatial"),
    *("numeracy", "complex"),
)
"""Categories of T2I-CompBench++, each a file CATEGORY_val.txt."""


def _compbench(path: Path) -> Iterator[Item]:
    """The folder ``examples/dataset``, of which those of the categories that are there are read."""
    files = {one: path / f"{one}_val.txt" for one in COMPBENCH}
    files = {one: file for one, file in files.items() if file.is_file()}
    if not files:
        raise UserError(f"{path}: has none of {', '.join(f'{one}_val.txt' for one in COMPBENCH)}")
    for category, file in files.items():
        for line in _text(file).splitlines():
            if prompt := line.strip():
                pairs = [[f"{phrase}?", "Yes"] for phrase in noun_phrases(prompt)]
                yield Item(prompt, category, {"vqa_list": pairs})


POINTS = {
    "en": ("Primary Categories", "Testpoint Description"),
    "zh": ("一级垂类", "考点对应描述"),
}
"""Of UniGenBench, by language the keys of a prompt's category and its test points."""


def _unigenbench(path: Path) -> Iterator[Item]:
    """``data/test_prompts_en.csv``, or one of its other files; categories are the primary ones."""
    for row in _table(path, ","):
        language = "zh" if "prompt_zh" in row else "en"
        prompt, inside = _texts(path, row, f"prompt_{language}", f"sub_dims_{language}")
        # In one of the published rows a comma is missing.
        found = _parsed(path, inside.replace('" "', '", "'))
        category, points = _values(path, found, *POINTS[language])
        pairs = [[f"Does the image show this: {point}?", "Yes"] for point in points]
        yield Item(prompt, str(category), {"checks": points, "vqa_list": pairs})


def _shapes(path: Path) -> Iterator[Item]:
    """A JSON array of captions of the embedded world."""
    for prompt in _parsed(path, _text(path)):
        relation = re.search(r" (left of|right of|above|below) ", prompt)
        yield Item(prompt, relation[1] if relation else "one object")


BENCHMARKS = {
    "shapes": Benchmark(
        "shapes",
        "the embedded world",
        _shapes,
        {},
        "share of captions that hold, says an oracle that reads pictures back",
    ),
    "geneval": Benchmark(
        "GenEval",
        "https://github.com/djghosh13/geneval",
        _geneval,
        {"detector": "rules"},
        "share of pictures in which a detector finds what was asked for, mean over tasks",
        by_category=True,
    ),
    "geneval2": Benchmark(
        "GenEval 2",
        "https://github.com/facebookresearch/GenEval2",
        _geneval2,
        {"soft-tifa": "questions"},
        "Soft-TIFA, the mean probability of right answers",
    ),
    "drawbench": Benchmark(
        "DrawBench",
        "https://imagen.research.google",
        _drawbench,
        {},
        "no judge: people compare its pictures",
    ),
    "partiprompts": Benchmark(
        "PartiPrompts",
        "https://github.com/google-research/parti",
        _partiprompts,
        {},
        "no judge: people compare its pictures",
    ),
    "hpdv2": Benchmark(
        "HPDv2",
        "https://huggingface.co/datasets/zhwang/HPDv2",
        _hpdv2,
        {},
        "no judge but HPSv2, a reward: take it as the held-out one",
    ),
    "t2i-compbench": Benchmark(
        "T2I-CompBench",
        "https://github.com/Karine-Huang/T2I-CompBench",
        _compbench,
        {"soft-tifa": "questions"},
        "mean probability of Yes, every noun phrase is seen",
    ),
    "unigenbench": Benchmark(
        "UniGenBench",
        "https://github.com/CodeGoat24/UniGenBench",
        _unigenbench,
        {"checklist": "checks", "soft-tifa": "questions"},
        "share of a prompt's test points that hold, says a chat model",
    ),
}
"""By the name that the command takes."""


def read_items(name: str, path: Path) -> list[Item]:
    """All prompts of a benchmark, in the order of its files.

    Raises:
        UserError: the files are not there, or not of this benchmark.
    """
    items = list(BENCHMARKS[name].read(path))
    if not items:
        raise UserError(f"{path}: has no prompts of {BENCHMARKS[name].title}")
    return items


_START = re.compile(r"an?|the|one|two|three|four|five|six|seven|eight|nine|ten", re.IGNORECASE)
_END = re.compile(
    r"\W|and|or|but|with|without|on|in|at|of|to|from|by|for|into|over|under|above|below|near|next|"
    r"behind|beside|between|against|around|through|while|that|which|who|as|is|are|was|were|has|"
    r"have|had|be|being|been",
    re.IGNORECASE,
)
_NO_THINGS = {"the top", "the side", "the left", "the right"}


def noun_phrases(text: str) -> list[str]:
    """The things that a plain English sentence names, each with its article or number.

    T2I-CompBench asks for those that spaCy finds. Here a phrase begins at an article or a number
    and ends before the next preposition, conjunction, auxiliary or mark; without any, the whole
    text is one.
    """
    found: list[list[str]] = []
    inside = False
    for word in re.findall(r"[\w'-]+|[^\w\s]", text):
        if _START.fullmatch(word):
            found.append([])
            inside = True
        elif _END.fullmatch(word):
            inside = False
        if inside:
            found[-1].append(word)
    phrases = [" ".join(words) for words in found if len(words) > 1]
    return [one for one in phrases if one.lower() not in _NO_THINGS] or [text]


def _text(file: Path) -> str:
    return read_text(file, str(file))


def _parsed(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}: not JSON: {error}") from None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in _text(file).split("\n"):
        if line.strip():
            yield _parsed(file, line)


def _table(file: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    """Rows by the names of their columns in small letters."""
    # In the TSV quotes are part of the text.
    style: dict[str, Any] = {"delimiter": delimiter}
    style |= {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    rows = csv.reader(io.StringIO(_text(file)), **style)
    header = [name.strip().lower() for name in next(rows, [])]
    yield from (dict(zip(header, row, strict=False)) for row in rows if row)


def _values(file: Path, found: Any, *keys: str) -> list[Any]:
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking:
        raise UserError(f"{file}: has no {lacking[0]}, which the published file has")
    return [found[key] for key in keys]


def _texts(file: Path, found: Any, *keys: str) -> list[str]:
    values = _values(file, found, *keys)
    if bad := [key for key, one in zip(keys, values, strict=True) if not isinstance(one, str)]:
        raise UserError(f"{file}: {bad[0]} is no text")
    return values
