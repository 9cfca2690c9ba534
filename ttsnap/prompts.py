"""Prompt files in, validated prompts with stable ids, splits and seeds out.

A prompt file is a JSON array of strings, or of objects ``{"prompt", "id"?, "negative_prompt"?}``.
Prompts may hold any text; only their ids are ever part of a path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttsnap.config import Split, Splits, SplitSettings
from ttsnap.errors import UserError

ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
KEYS = ("prompt", "id", "negative_prompt")


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: names the prompt in tables and paths; the given one, or one made of its texts, so that
            it survives a re-ordering of the file.
        text: what is to be seen.
        negative: what is not to be seen; empty for none.
        index: position in the file, counted from 0.
    """

    id: str
    text: str
    negative: str
    index: int


def load_prompts(path: str | Path) -> list[Prompt]:
    """Read and check a whole prompt file.

    Raises:
        UserError: naming the file and the byte, line and column, or item (counted from 0).
    """
    items = _read_array(Path(path))
    prompts: list[Prompt] = []
    texts: dict[tuple[str, str], int] = {}
    ids: dict[str, int] = {}
    for index, item in enumerate(items):
        try:
            prompt = parse_prompt(item, index)
            first = texts.setdefault((prompt.text, prompt.negative), index)
            if first != index:
                raise UserError(f"the same prompt as item {first}: {_shorten(prompt.text)}")
            # Some file systems do not tell upper from lower case.
            first = ids.setdefault(prompt.id.lower(), index)
            if first != index:
                raise UserError(f"the id {prompt.id} is already taken by item {first}")
        except UserError as error:
            raise UserError(f"{path}: item {index}: {error} (items count from 0)") from None
        prompts.append(prompt)
    return prompts


def _read_array(path: Path) -> list[Any]:
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
        items = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start}: not UTF-8 ({error.reason})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: not a JSON array of prompts: nested too deeply") from None
    if not isinstance(items, list):
        raise UserError(f"{path}: expected a JSON array of prompts, not {_kind(items)}")
    if not items:
        raise UserError(f"{path}: the list of prompts is empty")
    return items


def parse_prompt(item: Any, index: int = 0) -> Prompt:
    if isinstance(item, str):
        item = {"prompt": item}
    if not isinstance(item, dict):
        raise UserError(f"expected a string or an object, not {_kind(item)}")
    for key, value in item.items():
        if key not in KEYS:
            raise UserError(f"unknown key {_shorten(key)}; expected {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise UserError(f"{key}: expected a string, not {_kind(value)}")
        if re.search("[\ud800-\udfff]", value):
            raise UserError(f"{key}: half a surrogate pair, which is no character")
    if "prompt" not in item:
        raise UserError("the key prompt is missing")
    text, negative = item["prompt"], item.get("negative_prompt", "")
    if not text.strip():
        raise UserError("the prompt is empty")
    if "id" not in item:
        digest = hashlib.sha256(f"{text}\0{negative}".encode()).hexdigest()
        return Prompt(f"p{digest[:11]}", text, negative, index)
    if not ID.fullmatch(item["id"]):
        raise UserError(
            f"id: {_shorten(item['id'])} is not 1 to 64 of A-Z a-z 0-9 . _ - without a leading dot"
        )
    return Prompt(item["id"], text, negative, index)


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


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256, in hex, of the ids and texts of ``prompts`` in their order."""
    rows = [[prompt.id, prompt.text, prompt.negative] for prompt in prompts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
