"""One look for all figures: quiet axes, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

WIDTH = 7.2  # inches, the text width of the report
HEADING = 9.5  # points, the type of captions
INK, MUTED, FAINT = "#222222", "#6f6f6f", "#d9d9d9"
GREY, ORANGE, BLUE = "#7f7f7f", "#e08214", "#0b6fb8"
OTHERS = ("#d1495b", "#1b998b", "#7768ae", "#b5a642")
COLOURS = {
    "base": GREY,
    "finetuned": BLUE,
    "difference": BLUE,
    "best-of-n": GREY,
    "ttsp": ORANGE,
    "ttsnap": BLUE,
    "random": "#009e73",
    "zero-order": "#8fb51c",
    "ttsnap+zero-order": "#1b2f6b",
    "rejection": "#cc79a7",
    "beam": "#5e3c99",
    "mcts": "#b2182b",
    "noise-zero-order": "#2f6f73",
    "eps-greedy": "#8c6d31",
    "smc": "#56b4e9",
}
LABELS = {
    "base": "untouched reward",
    "finetuned": "noise-aware reward",
    "best-of-n": "best-of-N",
    "ttsp": "TTSp",
    "ttsnap": "TTSnap",
    "ttsnap+zero-order": "TTSnap + zero-order",
    "mcts": "MCTS",
    "noise-zero-order": "noise zero-order",
    "eps-greedy": "ε-greedy",
    "smc": "SMC",
}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "grid.color": "#ececec",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "ttsnap",
}
styled = matplotlib.rc_context(STYLE)  # decorates every function that draws


def colour(name: str, names: Sequence[str] = ()) -> str:
    """Colour of a strategy or kind of reward; unknown ones of ``names`` get further colours."""
    if name in COLOURS:
        return COLOURS[name]
    return OTHERS[[other for other in names if other not in COLOURS].index(name) % len(OTHERS)]


def label(name: str) -> str:
    """How a strategy or kind of reward is called in a figure."""
    return LABELS.get(name, name)


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` as PNG or SVG, with no date in it, so that equal data give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, facecolor="white", metadata=metadata)


def head(figure: Figure, title: str, subtitle: str = "") -> None:
    """Title and subtitle at the top left, in inches so that every figure has the same."""
    height = figure.get_figheight()
    figure.text(
        0.1 / figure.get_figwidth(), 1 - 0.1 / height, title, size=10.5, weight="bold", va="top"
    )
    if subtitle:
        figure.text(
            0.1 / figure.get_figwidth(),
            1 - 0.32 / height,
            subtitle,
            size=8.5,
            va="top",
            color=MUTED,
            linespacing=1.35,
        )


def end_labels(ax: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write texts (y, text, colour) to the right of ``x``, moved apart where they would overlap.

    The limits of the axes must be final.
    """
    low, high = ax.get_ylim()
    inches = ax.get_figure().get_figheight() * ax.get_position().height  # type: ignore[union-attr]
    line = (high - low) * 0.15 / inches
    ends = sorted(ends)
    half = [line * (text.count("\n") + 1.25) / 2 for _, text, _ in ends]
    places = [y for y, _, _ in ends]
    for i in range(1, len(ends)):
        places[i] = max(places[i], places[i - 1] + half[i - 1] + half[i])
    places[-1] = min(places[-1], high - half[-1])
    for i in reversed(range(len(ends) - 1)):
        places[i] = min(places[i], places[i + 1] - half[i] - half[i + 1])
    for place, (_, text, tint) in zip(places, ends, strict=True):
        ax.annotate(
            text,
            (x, place),
            xytext=(7, 0),
            textcoords="offset points",
            color=tint,
            va="center",
            size=8.5,
            annotation_clip=False,
        )


def signed(value: float, digits: int = 2) -> str:
    """``value`` with its sign and so many significant digits, such as +0.10."""
    return f"{value:+#.{digits}g}".rstrip(".").replace("-", "−")


def scored(value: float, largest: float, sign: str = "-") -> str:
    """``value`` to the decimals that show four digits of ``largest``, so that columns line up.

    ``sign`` is "+" to show it of positive values, too.
    """
    decimals = max(0, 3 - math.floor(math.log10(abs(largest) or 1)))
    return f"{value:{sign}z.{decimals}f}".replace("-", "−")


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
