"""Errors that the command line and the stages turn into a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from errno import EACCES, EDQUOT, EIO, ENOSPC, EROFS
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; the message says what, where, and what was expected."""


def read_text(file: Path, place: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        file: to read.
        place: what an error names, such as the setting and the file.

    Raises:
        UserError: it cannot be read, or is no such text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{place}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{place}: is no text in UTF-8") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to add to a line about an unknown name: the nearest known one, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class JudgeRefused(UserError):
    """A judge grades no image of a prompt: it is blocked, or what it answers cannot be read.

    Others may fare better: who works through a list of prompts skips this one and goes on.
    """


def explain(error: UserError | OSError) -> str | None:
    """One line for what the user, or who runs the machine, can put right; None for a fault of ours.

    Of OSErrors these are a full disk or quota, missing permission, and a disk that fails.
    """
    if isinstance(error, UserError):
        return str(error)
    if error.errno in (ENOSPC, EDQUOT):
        return f"{error.filename}: {error.strerror}; make room and run again, what is done is kept"
    if error.errno in (EACCES, EROFS, EIO):
        return f"{error.filename}: {error.strerror}"
    return None
