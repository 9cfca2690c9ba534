"""Texts of users in a figure: as many lines as there is room for, whatever the script."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

HEADING = 9.5  # points, the type of captions


def caption(text: str, inches: float, lines: int = 2) -> str:
    """``text`` on at most ``lines`` lines as wide as that in a figure's heading, or shortened."""
    rest = " ".join(drawable(text).split())
    rows: list[str] = []
    while rest and len(rows) < lines:
        fits = _fitting(rest, inches)
        space = rest.rfind(" ", 0, fits + 1)
        end = len(rest) if fits == len(rest) else space if space > 0 else fits
        rows.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        rows[-1] = rows[-1][: _fitting(rows[-1], inches - _advance("…"))].rstrip() + "…"
    return "\n".join(rows)


def drawable(text: str) -> str:
    """``text`` with a box for each character that the font lacks."""
    return "".join(map(_drawn, text))


def _drawn(character: str) -> str:
    kind = unicodedata.category(character)
    if character.isspace():
        return " "
    if kind in {"Cc", "Cf"} or (character not in _glyphs() and kind in {"Mn", "Me"}):
        return ""
    return character if character in _glyphs() else "▯"


def _fitting(text: str, inches: float) -> int:
    """How many of the first characters are within that width."""
    widths = np.cumsum([_advance(character) for character in text])
    return int(np.searchsorted(widths, inches, side="right"))


@cache
def _advance(character: str) -> float:
    """Width in inches in the heading's type."""
    font = FT2Font(findfont(FontProperties(family="DejaVu Sans", weight="bold")))
    font.set_size(HEADING, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 65536 / 72


@cache
def _glyphs() -> frozenset[str]:
    """What both weights of the font can draw."""
    regular, bold = (
        set(FT2Font(findfont(FontProperties(family="DejaVu Sans", weight=weight))).get_charmap())
        for weight in ("normal", "bold")
    )
    return frozenset(map(chr, regular & bold))
