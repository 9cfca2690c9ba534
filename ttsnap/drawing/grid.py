"""Pictures in rows and columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ttsnap.drawing.captions import HEADING, caption, families
from ttsnap.drawing.style import BLUE, FAINT, INK, MUTED, WIDTH, save

PIXELS = 160  # of a picture's longest side as drawn
GUTTER = 0.07  # between pictures, as a share of their width
MARGIN, LINE = 0.1, 0.13  # inches: around all, of a text below a picture
GONE = 0.72  # size of the picture of what was dropped, as a share of the others


class Grid:
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
        size_of_cell: float = 0.9,
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
            size_of_cell: inches from picture to picture, at most.
        """
        margin, side = MARGIN, 0.62 if note else 0.0
        ratio, line = size[0] / size[1], LINE if scores else 0.0
        cell = min(size_of_cell, (WIDTH - 2 * margin - side) / columns)
        width = max(columns * cell + side + 2 * margin, 4.6)
        title = caption(prompt, width - 2 * margin)
        lines = title.count("\n") + 1
        head = margin + 0.19 * lines + (0.2 if subtitle else 0) + (0.36 if headed else 0.08)
        self.tall = ratio + line / cell
        self.picture_tall = ratio
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
            family=families(title),
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

    def picture(self, row: int, column: float, image: np.ndarray, dropped: bool) -> None:
        """Put ``image`` uint8 (H, W, 3) into a cell, small and pale if it was dropped."""
        left, right, top, bottom = self._box(row, column)
        inset = (1 - GONE) / 2 if dropped else 0.0
        left, right = left + inset * (right - left), right - inset * (right - left)
        top, bottom = top + inset * (bottom - top), bottom - inset * (bottom - top)
        self.ax.imshow(
            enlarged(pale(image) if dropped else image),
            extent=(left, right, bottom, top),
            interpolation="antialiased",
            aspect="equal",
        )
        self._outline((left, right, top, bottom), FAINT, 0.5)  # a white one ends somewhere

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

    def frame(self, row: int, column: float, bold: bool = True) -> None:
        """Mark a picture."""
        self._outline(self._box(row, column), BLUE, 2.2 if bold else 1.0)

    def branch(self, row: int, column: float, to_row: int, to_column: float) -> None:
        """A line from a picture to one in another row and a column to the right."""
        _, right, top, bottom = self._box(row, column)
        left, _, to_top, to_bottom = self._box(to_row, to_column)
        turn, y, to_y = left - GUTTER / 2, (top + bottom) / 2, (to_top + to_bottom) / 2
        self.ax.plot([right, turn, turn, left], [y, y, to_y, to_y], color=MUTED, linewidth=0.8)

    def foot(self, text: str) -> None:
        """Write under the grid."""
        self.ax.text(0, self.rows * (self.tall + GUTTER), text, size=7.5, color=MUTED, va="top")

    def save(self, path: Path) -> None:
        save(self.figure, path)

    def _outline(self, box: tuple[float, float, float, float], tint: str, width: float) -> None:
        left, right, top, bottom = box
        self.ax.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=tint,
                linewidth=width,
                clip_on=False,
            )
        )

    def _box(self, row: int, column: float) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of a picture."""
        top = row * (self.tall + GUTTER)
        return column, column + 1 - GUTTER, top, top + self.picture_tall * (1 - GUTTER)


def pale(image: np.ndarray) -> np.ndarray:
    """With little of its colour, at the same lightness: black stays black, and white white."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return (0.25 * image + 0.75 * grey[..., None]).round().astype(np.uint8)


def enlarged(image: np.ndarray) -> np.ndarray:
    """A small picture smoothly enlarged to what is drawn."""
    scale = PIXELS / max(image.shape[:2])
    if scale <= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
