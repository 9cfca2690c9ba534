"""Picture grids: trajectories of a prompt, and who was pruned when in a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ttsnap.report.style import (
    BLUE,
    HEADING,
    INK,
    MUTED,
    WIDTH,
    caption,
    label,
    save,
    scored,
    styled,
)

if TYPE_CHECKING:
    from ttsnap.search.result import Candidate, SearchResult

PIXELS = 160  # of a picture's longest side as drawn
GUTTER = 0.07  # between pictures, as a share of their width
ROWS = 14  # of a contact sheet, at most
ACROSS = 8  # pictures in a row of one, at most


@styled
def trajectories(
    images: np.ndarray,
    scores: Sequence[float],
    steps: Sequence[int],
    prompt: str,
    path: Path,
    *,
    pruned_at: Sequence[int | None] | None = None,
) -> None:
    """Steps across, candidates down; what a pruned candidate would have become is dimmed.

    Args:
        images: (candidates, steps, H, W, 3) uint8, the decoded Tweedie estimates.
        scores: (candidates,) reward of the final images.
        steps: step index of each column.
        prompt: the caption above; shortened if long.
        path: PNG or SVG to write.
        pruned_at: step index of the check that drops each candidate, None for those kept; without
            it nothing is dimmed.
    """
    dropped = list(pruned_at or [None] * len(images))
    grid = _Grid(len(images), len(steps), images.shape[2:4], prompt, note="final reward")
    largest = max(map(abs, scores))
    winner = max((i for i, drop in enumerate(dropped) if drop is None), key=lambda i: scores[i])
    for column, step in enumerate(steps):
        grid.above(column, f"step {step}" if column == 0 else f"{step}")
    for row, (drop, score) in enumerate(zip(dropped, scores, strict=True)):
        for column, step in enumerate(steps):
            grid.picture(row, column, images[row, column], drop is not None and step > drop)
        fate = "best" if row == winner else "" if drop is None else f"out at {drop}"
        grid.beside(row, scored(score, largest), fate, highlighted=row == winner)
    grid.frame(winner, len(steps) - 1)
    grid.save(path)


@styled
def contact_sheet(result: SearchResult, path: Path) -> None:
    """Looks across, candidates down, best fate first; each is dimmed where it was pruned.

    The score of each look stands below its picture. Candidates that the first check dropped fill
    the columns to the right, as do all candidates of a search without checks; what does not fit
    is counted below.

    Args:
        result: of any method.
        path: PNG or SVG to write.
    """
    candidates = result.candidates
    looks = sorted({step for candidate in candidates for step in candidate.scores})
    largest = max(abs(score) for candidate in candidates for score in candidate.scores.values())
    ranked = sorted(candidates, key=_fate, reverse=True)
    followed = [c for c in ranked if len(c.scores) > 1]
    others = ranked[len(followed) :]
    rows = min(max(len(followed), -(-len(others) // ACROSS)), ROWS)
    right = len(looks) + 0.3 if followed else 0
    across = min(-(-len(others) // rows), max(ACROSS - round(right), 1))
    shown = followed[:rows], others[: rows * across]
    hidden = len(ranked) - sum(map(len, shown))
    grid = _Grid(
        rows,
        right + across if others else len(looks),
        ranked[0].thumbnails[looks[0]].shape[:2],
        result.prompt,
        subtitle=f"{label(result.method)}: {_count(len(ranked), 'candidate')}, "
        f"{result.spent:.3g} {result.unit}, best {result.reward} {scored(result.score, largest)}",
        scores=True,
        headed=bool(followed),
    )
    cells: list[tuple[Candidate, int, int, float]] = [
        *(
            (c, step, row, float(i))
            for row, c in enumerate(shown[0])
            for i, step in enumerate(looks)
            if step in c.scores
        ),
        *((c, looks[0], i // across, right + i % across) for i, c in enumerate(shown[1])),
    ]
    for candidate, step, row, column in cells:
        won = candidate is candidates[result.winner] and step == looks[-1]
        grid.picture(row, column, candidate.thumbnails[step], candidate.pruned_at == step)
        grid.below(row, column, scored(candidate.scores[step], largest), highlighted=won)
        if won:
            grid.frame(row, column)
    if followed:
        for i, step in enumerate(looks):
            alive = sum(step in candidate.scores for candidate in candidates)
            grid.above(i, f"step {step}\n{alive} alive")
        if others:
            grid.above(right, f"dropped at step {looks[0]}", align="left")
    if hidden:
        grid.foot(f"and {hidden} more that scored lower")
    grid.save(path)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fate(candidate: Candidate) -> tuple[int, float]:
    """Orders candidates: how far one came, then its last score."""
    last = max(candidate.scores)
    return last, candidate.scores[last]


class _Grid:
    """Pictures in rows and columns on one set of axes, whose unit is a picture's width."""

    def __init__(
        self,
        rows: int,
        columns: float,
        size: tuple[int, int],
        prompt: str,
        *,
        subtitle: str = "",
        note: str = "",
        scores: bool = False,
        headed: bool = True,
    ) -> None:
        """
        Args:
            rows: of pictures.
            columns: of pictures, gaps between them included.
            size: height and width of a picture, for its shape.
            prompt: above the grid.
            subtitle: under the prompt.
            note: heads the texts to the right of the rows; without it there are none.
            scores: leave room under each picture for a text.
            headed: leave room above the columns for a text.
        """
        margin, side = 0.1, 0.62 if note else 0.0
        cell = min(0.9, (WIDTH - 2 * margin - side) / columns)
        width = max(columns * cell + side + 2 * margin, 4.6)
        title = caption(prompt, width - 2 * margin)
        lines = title.count("\n") + 1
        head = margin + 0.19 * lines + (0.2 if subtitle else 0) + (0.36 if headed else 0.08)
        self.tall = size[0] / size[1] + (0.13 / cell if scores else 0)
        self.picture_tall = size[0] / size[1]
        height = head + rows * cell * (self.tall + GUTTER) + margin + 0.12
        self.figure = Figure(figsize=(width, height))
        self.rows, self.columns = rows, columns
        self.ax: Axes = self.figure.add_axes(
            (margin / width, 0.0, 1 - margin / width, 1 - head / height)
        )
        self.ax.set(
            xlim=(0, (width - margin) / cell), ylim=((height - head) / cell, 0), aspect="equal"
        )
        self.ax.axis("off")
        self.figure.text(
            margin / width,
            1 - margin / height,
            title,
            size=HEADING,
            weight="bold",
            va="top",
            linespacing=1.3,
        )
        if subtitle:
            self.figure.text(
                margin / width,
                1 - (margin + 0.19 * lines) / height,
                subtitle,
                size=8.5,
                color=MUTED,
                va="top",
            )
        if note:
            self.ax.text(columns + 0.06, -0.08, note, size=7.5, color=MUTED, va="bottom")

    def picture(self, row: int, column: float, image: np.ndarray, dimmed: bool) -> None:
        """Put ``image`` uint8 (H, W, 3) into a cell."""
        scale = PIXELS / max(image.shape[:2])
        if scale > 1:
            size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
            image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        left, right, top, bottom = self._box(row, column)
        self.ax.imshow(
            image,
            extent=(left, right, bottom, top),
            alpha=0.28 if dimmed else 1,
            interpolation="antialiased",
            aspect="equal",
        )

    def above(self, column: float, text: str, align: str = "center") -> None:
        """Head a column."""
        x = column + (1 - GUTTER) / 2 if align == "center" else column
        self.ax.text(x, -0.08, text, size=7.5, color=MUTED, ha=align, va="bottom")

    def beside(self, row: int, text: str, below: str, *, highlighted: bool) -> None:
        """Write to the right of a row."""
        middle = row * (self.tall + GUTTER) + self.picture_tall / 2
        tint = BLUE if highlighted else INK
        self.ax.text(
            self.columns + 0.06,
            middle,
            text,
            size=8.5,
            color=tint,
            va="bottom",
            weight="bold" if highlighted else "normal",
        )
        self.ax.text(
            self.columns + 0.06,
            middle,
            below,
            size=7,
            va="top",
            color=BLUE if highlighted else MUTED,
        )

    def below(self, row: int, column: float, text: str, *, highlighted: bool) -> None:
        """Write under a picture."""
        left, right, _, bottom = self._box(row, column)
        self.ax.text(
            (left + right) / 2,
            bottom + 0.03,
            text,
            size=7.5,
            ha="center",
            va="top",
            color=BLUE if highlighted else MUTED,
            weight="bold" if highlighted else "normal",
        )

    def frame(self, row: int, column: float) -> None:
        """Mark a picture."""
        left, right, top, bottom = self._box(row, column)
        self.ax.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=BLUE,
                linewidth=2.2,
                clip_on=False,
            )
        )

    def foot(self, text: str) -> None:
        """Write under the grid."""
        self.ax.text(0, self.rows * (self.tall + GUTTER), text, size=7.5, color=MUTED, va="top")

    def save(self, path: Path) -> None:
        save(self.figure, path)

    def _box(self, row: int, column: float) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of a picture."""
        top = row * (self.tall + GUTTER)
        return column, column + 1 - GUTTER, top, top + self.picture_tall * (1 - GUTTER)
