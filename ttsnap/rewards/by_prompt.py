"""What a file says about each prompt: questions, rules, whatever a reward reads beside the text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ttsnap.errors import UserError, read_text


class Line(BaseModel):
    """About one prompt; keys that a reward does not read are left out."""

    model_config = ConfigDict(strict=True)
    prompt: str


LineType = TypeVar("LineType", bound=Line)
Said = TypeVar("Said")


def read_lines(file: str, place: str, kind: type[LineType]) -> dict[str, LineType]:
    """The lines of a file by their prompts.

    Args:
        file: JSON Lines, or JSON with an array.
        place: names the setting in errors.
        kind: of the lines.

    Raises:
        UserError: the file cannot be read, has no lines, or one of them is something else.
    """
    text = read_text(Path(file), f"{place}: {file}")
    try:
        if text.lstrip().startswith("["):
            lines: list[LineType] = TypeAdapter(list[kind]).validate_json(text)  # type: ignore[valid-type]
        else:
            lines = [kind.model_validate_json(line) for line in text.split("\n") if line.strip()]
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"])) or "a line"
        raise UserError(f"{place}: {file}: {where}: {detail['msg']}") from None
    if not lines:
        raise UserError(f"{place}: {file}: is empty")
    return {line.prompt: line for line in lines}


def line_of(lines: Mapping[str, Said], prompt: str, name: str, file: str) -> Said:
    """What the file says about a prompt.

    Raises:
        UserError: nothing; the line names the reward and the file.
    """
    if prompt not in lines:
        shown = json.dumps(prompt[:60], ensure_ascii=False)
        raise UserError(f"reward {name}: {file} says nothing about {shown}")
    return lines[prompt]
