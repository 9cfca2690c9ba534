"""Prompt files in, validated prompts with stable ids, splits and seeds out.

By the end of its name a prompt file is ``.txt`` with one prompt a line, ``.jsonl``, ``.csv`` or
``.tsv`` with one a row, or ``.json`` with an array or the captions of COCO. Standard input, and
what is named otherwise, is told by how it begins. Items are strings, or objects of which one key
holds the prompt; ``id`` and ``negative_prompt`` may be beside it. Prompts and ids may hold any
text: what an id is called on disk, says :func:`folder_name`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttsnap.config import Split, Splits, SplitSettings
from ttsnap.errors import UserError

COLUMNS = ("prompt", "prompts", "prompt_en", "caption", "text")
"""What keys that hold prompts are called, in any case, where none is named."""

STANDARD_INPUT = "-"

_BESIDE = ("id", "negative_prompt")
_BEGINS_AS_JSON = re.compile(r'\s*(?:\[\s*["{\[\]]|\{\s*["}])')  # a prompt may begin with [ or {
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: names the prompt in tables; the given one, or one made of its texts, so that it survives
            a re-ordering of the file.
        text: what is to be seen.
        negative: what is not to be seen; empty for none.
        index: position in the file, counted from 0.
    """

    id: str
    text: str
    negative: str
    index: int


def load_prompts(path: str | Path, column: str | None = None) -> list[Prompt]:
    """Read and check a whole prompt file.

    Keys that mean nothing here are left out, and one line of the log names them.

    Args:
        path: of the file; ``-`` is standard input.
        column: the key or column that holds the prompts; by default the one that is called as one
            of ``COLUMNS``.

    Raises:
        UserError: naming the file and the byte, line and column, or item (counted from 0); for
            equal ids, and for several keys that could hold the prompts.
    """
    name = "standard input" if str(path) == STANDARD_INPUT else str(path)
    items = list(_items(name, _decoded(path, name), Path(path).suffix.lower()))
    if not items:
        raise UserError(f"{name}: the list of prompts is empty")
    objects = [item for _, item in items if isinstance(item, dict)]
    keys = list(dict.fromkeys(key for one in objects for key, it in one.items() if it is not None))
    chosen = _chosen(name, keys, column)
    prompts: list[Prompt] = []
    ids: dict[str, int] = {}
    for index, (place, item) in enumerate(items):
        try:
            prompt = parse_prompt(item, index, column=chosen)
            first = ids.setdefault(prompt.id, index)
            if first != index:
                twin, there = prompts[first], items[first][0]
                if (twin.text, twin.negative) == (prompt.text, prompt.negative):
                    raise UserError(f"the same prompt as {there}: {_shorten(prompt.text)}")
                raise UserError(f"the id {prompt.id} is already taken by {there}")
        except UserError as error:
            counted = " (items count from 0)" if place.startswith("item") else ""
            raise UserError(f"{name}: {place}: {error}{counted}") from None
        prompts.append(prompt)
    ignored = [key for key in keys if key != chosen and key.casefold() not in _BESIDE]
    if ignored:
        log.warning("%s: the prompts are %s; ignored: %s", name, chosen, ", ".join(ignored))
    return prompts


def _decoded(path: str | Path, name: str) -> str:
    """The text of a file in UTF-8, -16 or -32, with or without a byte order mark."""
    try:
        data = sys.stdin.buffer.read() if str(path) == STANDARD_INPUT else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        words = encoding.upper().removesuffix("-SIG")
        raise UserError(f"{name}: byte {error.start}: not {words} ({error.reason})") from None


def _items(name: str, text: str, suffix: str) -> Iterator[tuple[str, Any]]:
    """Where each prompt stands, as ``line 3`` or ``item 2``, and what is there."""
    if suffix not in (".txt", ".jsonl", ".csv", ".tsv", ".json"):
        suffix = ".txt"
        if _BEGINS_AS_JSON.match(text):
            whole = text.lstrip().startswith("[") or '"annotations"' in text
            suffix = ".json" if whole else ".jsonl"
    if suffix == ".json":
        found = _parsed(name, text)
        if isinstance(found, dict) and isinstance(found.get("annotations"), list):
            found = found["annotations"]  # the captions of COCO
        if not isinstance(found, list):
            raise UserError(f"{name}: expected a JSON array of prompts, not {_kind(found)}")
        yield from ((f"item {index}", item) for index, item in enumerate(found))
    elif suffix in (".csv", ".tsv"):
        yield from _rows(name, text, suffix)
    else:
        # Not splitlines, for which some characters that texts may hold end a line, too.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                item = _parsed(name, line, number) if suffix == ".jsonl" else line.rstrip("\r")
                yield f"line {number}", item


def _parsed(name: str, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno + line - 1}:{error.colno}"
        raise UserError(f"{place}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{name}: not a JSON array of prompts: nested too deeply") from None


def _rows(name: str, text: str, suffix: str) -> Iterator[tuple[str, Any]]:
    """The rows of a table as objects, by the names in its first row; empty cells are null."""
    options: dict[str, Any] = {"strict": True}
    if suffix == ".tsv":
        options["delimiter"] = "\t"
        try:
            list(csv.reader(io.StringIO(text, newline=""), **options))
        except csv.Error:  # quotes are part of the text, as in PartiPrompts
            options["quoting"] = csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), **options)
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) > len(header):
                raise UserError(
                    f"{name}: line {reader.line_num}: {len(cells)} cells under a header of "
                    f"{len(header)}; a text with the separator in it must be quoted"
                )
            named = zip(header, cells, strict=False)
            if cells:
                yield f"line {reader.line_num}", {key: cell or None for key, cell in named if key}
    except csv.Error as error:
        raise UserError(
            f"{name}: line {reader.line_num}: not {suffix[1:].upper()}: {error}"
        ) from None


def _chosen(name: str, keys: Sequence[str], wanted: str | None) -> str:
    """The one of ``keys`` that holds the prompts; any will do where all items are strings."""
    if wanted in keys:
        return str(wanted)
    if wanted is None and not keys:
        return COLUMNS[0]
    names = COLUMNS if wanted is None else (wanted.casefold(),)
    found = [key for key in keys if key.casefold() in names]
    if len(found) > 1:
        both = " and ".join(found)
        raise UserError(f"{name}: {both} could each hold the prompts; name one (--prompt-column)")
    if not found:
        hint = "; name the one with the prompts (--prompt-column)" if wanted is None else ""
        there = ", ".join(keys) or "none, its items are strings"
        raise UserError(f"{name}: no column {' or '.join(names)}, only {there}{hint}")
    return found[0]


def parse_prompt(item: Any, index: int = 0, *, column: str = COLUMNS[0]) -> Prompt:
    """The prompt that an item of a file, a string or an object, describes.

    Args:
        item: as JSON has it; null is as good as absent, and other keys are left out.
        index: of the item in its file.
        column: key of the object that holds the prompt.

    Raises:
        UserError: it describes none.
    """
    if isinstance(item, str):
        item = {column: item}
    if not isinstance(item, dict):
        raise UserError(f"expected a string or an object, not {_kind(item)}")
    given = {key.casefold(): value for key, value in item.items() if value is not None}
    name = given.get("id", "")
    if isinstance(name, int | float) and not isinstance(name, bool):
        name = str(name)
    text, negative = item.get(column), given.get("negative_prompt", "")
    if text is None:
        raise UserError(f"the key {column} is missing")
    for key, value in ((column, text), ("negative_prompt", negative), ("id", name)):
        if not isinstance(value, str):
            raise UserError(f"{key}: expected a string, not {_kind(value)}")
        if re.search("[\ud800-\udfff]", value):
            raise UserError(f"{key}: half a surrogate pair, which is no character")
    if not text.strip():
        raise UserError("the prompt is empty")
    if not name.strip():
        digest = hashlib.sha256(f"{text}\0{negative}".encode()).hexdigest()
        name = f"p{digest[:11]}"
    return Prompt(name, text, negative, index)


def folder_name(prompt_id: str) -> str:
    """The folder of a prompt: its id where that does no harm, else what is harmless of it.

    What is left out or could be taken for another on a file system that does not tell upper from
    lower case is made up for by a digest behind a tilde, which no id that stays as it is contains.
    """
    if _PLAIN.fullmatch(prompt_id):
        return prompt_id
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", prompt_id).strip("-")[:40] or "id"
    return f"{readable}~{hashlib.sha256(prompt_id.encode()).hexdigest()[:12]}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), json.dumps(value))


def _shorten(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:59] + "…", ensure_ascii=False)


def load_split(split: SplitSettings) -> list[Prompt]:
    """The prompts [start, stop) of the split's file.

    Raises:
        UserError: if the file is no good or has fewer prompts.
    """
    return _slice(split, load_prompts(split.file))


def _slice(split: SplitSettings, prompts: list[Prompt]) -> list[Prompt]:
    if split.stop > len(prompts):
        raise UserError(
            f"{split.file}: has {len(prompts)} prompts, a split wants {split.start} to {split.stop}"
        )
    return prompts[split.start : split.stop]


def load_splits(splits: Splits) -> dict[Split, list[Prompt]]:
    """The prompts of all splits, of which no two may share a text.

    Raises:
        UserError: if a file is no good, or splits share a prompt.
    """
    settings: dict[Split, SplitSettings] = {
        "train": splits.train,
        "val": splits.val,
        "test": splits.test,
    }
    files = {file: load_prompts(file) for file in {split.file for split in settings.values()}}
    loaded = {name: _slice(split, files[split.file]) for name, split in settings.items()}
    seen: dict[str, tuple[Split, Prompt]] = {}
    for name, prompts in loaded.items():
        for prompt in prompts:
            other, twin = seen.setdefault(prompt.text, (name, prompt))
            if other != name:
                raise UserError(
                    f"{settings[name].file}: item {prompt.index} of split {name} is also item "
                    f"{twin.index} of {settings[other].file}, in split {other}: "
                    f"{_shorten(prompt.text)} (items count from 0)"
                )
    return loaded


def seed_of(root: int, prompt_id: str, image: int) -> int:
    """Seed, in [0, 2**63), of the initial noise of a prompt's image.

    It depends on nothing but its arguments, so that a pool and a live search meet the same noise.
    """
    digest = hashlib.sha256(f"{root}\0{prompt_id}\0{image}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def step_seed(seed: int, step: int) -> int:
    """Seed of the noise that a scheduler adds at a step to the candidate of this seed.

    Unless a search chooses another, so that a pool and a live search go the same way.
    """
    return seed_of(seed, "step", step)


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256, in hex, of the ids and texts of ``prompts`` in their order."""
    rows = [[prompt.id, prompt.text, prompt.negative] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
