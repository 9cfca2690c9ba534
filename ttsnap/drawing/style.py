"""One look for all figures: quiet axes, colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

REFERENCE = "best-of-n"  # what all else is compared with
FAMILY = "DejaVu Sans"  # comes with matplotlib
WIDTH = 7.2  # inches, the text width of the report
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
    "ttsp@preview": "#f2b872",
    "ttsnap@preview": "#5aa9e0",
    "draft": "#1b7f4b",
    "draft+ttsp": "#7fb069",
    "draft+ttsnap": "#0e5c4a",
    "best": "#b2182b",
    "base@preview": "#b8b8b8",
    "finetuned@preview": "#5aa9e0",
    "difference@preview": "#5aa9e0",
    "random": "#009e73",
    "zero-order": "#8fb51c",
    "ttsnap+zero-order": "#1b2f6b",
    "rejection": "#cc79a7",
    "beam": "#5e3c99",
    "mcts": "#b2182b",
    "noise-zero-order": "#2f6f73",
    "eps-greedy": "#8c6d31",
    "smc": "#56b4e9",
    "das": "#1f8a9e",
    "funnel": "#7aa6c2",
    "bfs": "#4c5b8f",
    "svdd": "#9d7bc7",
    "code": "#c08bd0",
    "rbf": "#d95f02",
    "verifier-threshold": "#e6ab02",
    "dfs": "#a6611a",
    "evosearch": "#3f7f3f",
}
STYLE: Any = {
    "font.family": FAMILY,
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
HALO = [withStroke(linewidth=2.5, foreground="white")]  # keeps a text readable over lines
styled = matplotlib.rc_context(STYLE)  # decorates every function that draws


def colour(name: str, names: Sequence[str] = ()) -> str:
    """Colour of a strategy or kind of reward; unknown ones of ``names`` get further colours."""
    if name in COLOURS:
        return COLOURS[name]
    return OTHERS[[other for other in names if other not in COLOURS].index(name) % len(OTHERS)]


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` as PNG or SVG, or as both where ``path`` has no suffix.

    There is no date in them, so that equal data give equal files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path] if path.suffix else [path.with_name(path.name + end) for end in (".png", ".svg")]
    for file in files:
        metadata = {"Date": None} if file.suffix == ".svg" else {"Software": None}
        figure.savefig(file, facecolor="white", metadata=metadata)


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


def round_ticks(count: int, integer: bool = False) -> MaxNLocator:
    """At most ``count`` intervals between ticks that are easy to read, such as 0, 0.02, 0.04."""
    return MaxNLocator(count, integer=integer, steps=[1, 2, 5, 10])


def band(
    ax: Axes,
    x: pd.Series,
    rows: pd.DataFrame,
    tint: str,
    marker: str | None = "o",
    name: str | None = None,
) -> None:
    """Mean with its interval."""
    ax.fill_between(x, rows.low, rows.high, color=tint, alpha=0.13, linewidth=0)
    ax.plot(x, rows["mean"], color=tint, marker=marker, markersize=3.2, label=name)


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
