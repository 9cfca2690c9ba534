"""Pictures in rows and columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ttsnap.drawing.captions import HEADING, caption
from ttsnap.drawing.style import BLUE, INK, MUTED, WIDTH, save

PIXELS = 160  # of a picture's longest side as drawn
GUTTER = 0.07  # between pictures, as a share of their width


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
        left, right, top, bottom = self._box(row, column)
        self.ax.imshow(
            enlarged(image),
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


def enlarged(image: np.ndarray) -> np.ndarray:
    """A small picture smoothly enlarged to what is drawn."""
    scale = PIXELS / max(image.shape[:2])
    if scale <= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
