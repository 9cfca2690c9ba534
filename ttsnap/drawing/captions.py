"""Texts of users in a figure: as many lines as there is room for, whatever the script."""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from ttsnap.drawing.style import FAMILY

HEADING = 9.5  # points, the type of captions
# That a font has one weight only is no news to whoever wrote a prompt in its script.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


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
    """``text`` with an ellipsis for what no font of this machine can draw, and a note before it."""
    shown = [" " if character.isspace() else character for character in text]
    shown = [character for character in shown if _visible(character)]
    lacking = sum(_family(character) is None for character in shown)
    if not lacking:
        return "".join(shown)
    drawn = "".join("\0" if _family(character) is None else character for character in shown)
    note = f"{lacking} character{'' if lacking == 1 else 's'} no font here has"
    return f"[{note}] " + re.sub(r"\0[\0 ]*", "… ", drawn)


def families(text: str) -> list[str]:
    """The fonts, for matplotlib's ``family``, that a text of :func:`drawable` takes."""
    return list(dict.fromkeys([FAMILY, *(_family(one) or FAMILY for one in text)]))


def _visible(character: str) -> bool:
    """Not what only directs others, nor an accent that no font has."""
    kind = unicodedata.category(character)
    return kind not in {"Cc", "Cf"} and not (kind in {"Mn", "Me"} and _family(character) is None)


@cache
def _family(character: str) -> str | None:
    """The font that draws it: the usual one if it can, else the first of the machine that can."""
    return next((name for name in (FAMILY, *_others()) if character in _glyphs(name)), None)


@cache
def _others() -> list[str]:
    """What is installed beside matplotlib's own fonts, those without serifs first."""
    own = Path(matplotlib.get_data_path())
    names = {font.name for font in fontManager.ttflist if own not in Path(font.fname).parents}
    return sorted(names - {FAMILY}, key=lambda name: ("Sans" not in name, name))


@cache
def _glyphs(family: str) -> frozenset[str]:
    """What both weights of a font can draw; nothing if it has no outlines, such as of emoji."""
    try:
        regular, bold = (
            set(FT2Font(findfont(FontProperties(family=family, weight=weight))).get_charmap())
            for weight in ("normal", "bold")
        )
    except RuntimeError:
        return frozenset()
    return frozenset(map(chr, regular & bold))


def _fitting(text: str, inches: float) -> int:
    """How many of the first characters are within that width."""
    widths = np.cumsum([_advance(character) for character in text])
    return int(np.searchsorted(widths, inches, side="right"))


@cache
def _advance(character: str) -> float:
    """Width in inches in the heading's type."""
    font = FT2Font(findfont(FontProperties(family=_family(character), weight="bold")))
    font.set_size(HEADING, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 65536 / 72
