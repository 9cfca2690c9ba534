"""Picture grids: trajectories of a prompt, and who was pruned when in a search."""

from __future__ import annotations

import math
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
    colour,
    head,
    label,
    save,
    scored,
    styled,
)

if TYPE_CHECKING:
    from ttsnap.searching.result import Candidate, SearchResult

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
def gallery(
    images: Sequence[Sequence[np.ndarray]],
    scores: np.ndarray,
    prompts: Sequence[str],
    methods: Sequence[str],
    path: Path,
    *,
    subtitle: str,
) -> None:
    """What each method returned: a row for each prompt, a column for each method.

    Args:
        images: by prompt and method, uint8 (H, W, 3), all of one size.
        scores: (prompts, methods); the highest of a row is marked.
        prompts: above the rows; shortened.
        methods: above the columns.
        path: PNG or SVG to write.
        subtitle: what the images have in common, such as the budget.
    """
    margin, top, gap = 0.1, 0.88, 0.06
    cell = min(1.1, (WIDTH - 2 * margin) / len(methods) - gap)
    tall = cell * images[0][0].shape[0] / images[0][0].shape[1]
    line, row = 0.2, tall + 0.2 + 0.24  # inches: of a prompt, of all that belongs to it
    height = top + len(prompts) * row + margin
    figure = Figure(figsize=(WIDTH, height))
    head(figure, "What each method found", subtitle)
    largest = float(np.abs(scores).max())
    for i, prompt in enumerate(prompts):
        y = height - top - i * row
        figure.text(
            margin / WIDTH,
            (y - 0.03) / height,
            caption(prompt, WIDTH - 2 * margin, lines=1),
            size=8,
            color=MUTED,
            va="top",
        )
        for j, method in enumerate(methods):
            x = margin + j * (cell + gap)
            box = (x / WIDTH, (y - line - tall) / height, cell / WIDTH, tall / height)
            ax = figure.add_axes(box)
            ax.imshow(_enlarged(images[i][j]), interpolation="antialiased", aspect="auto")
            ax.set(xticks=[], yticks=[])
            best = j == int(scores[i].argmax())
            for spine in ax.spines.values():
                spine.set(visible=best, color=BLUE, linewidth=2.2)
            ax.set_xlabel(
                scored(float(scores[i, j]), largest),
                size=7.5,
                labelpad=2.5,
                color=BLUE if best else MUTED,
                weight="bold" if best else "normal",
            )
            if i == 0:
                name = "\n".join(label(method).rsplit(" ", 1)) if cell < 0.8 else label(method)
                figure.text(
                    (x + cell / 2) / WIDTH,
                    (y + 0.03) / height,
                    name,
                    size=7.5 if cell > 0.55 else 6.5,
                    color=colour(method, methods),
                    weight="bold",
                    ha="center",
                    va="bottom",
                )
    save(figure, path)


@styled
def contact_sheet(result: SearchResult, path: Path) -> None:
    """Looks across, candidates down, best fate first; each is dimmed where it was pruned.

    The score of each look stands below its picture. A candidate that finished as a branch of
    another one begins with the other's looks. Candidates seen once stand below, in the column of
    their step; those that the first look dropped fill the columns to the right, as do all
    candidates of a search that only looks at final images. What does not fit is counted below.

    Args:
        result: of any method.
        path: PNG or SVG to write.
    """
    candidates = result.candidates
    looks = sorted({step for candidate in candidates for step in candidate.scores})
    scores = [score for candidate in candidates for score in candidate.scores.values()]
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=1.0)
    seen = sorted((one for one in candidates if one.scores), key=_fate, reverse=True)
    pasts = {id(one): _past(one, candidates) if one.rewards else {} for one in seen}
    followed = [one for one in seen if len(one.scores) + len(pasts[id(one)]) > 1]
    once = [one for one in seen if len(one.scores) + len(pasts[id(one)]) == 1]
    first = [one for one in once if looks[0] in one.scores]
    later = {step: [one for one in once if step in one.scores] for step in looks[1:]}

    rows = max([len(followed), *(len(followed) + len(those) for those in later.values())])
    rows = min(max(rows, -(-len(first) // ACROSS)), ROWS)
    right = len(looks) + 0.3 if followed else 0
    across = min(-(-len(first) // rows), max(ACROSS - round(right), 1))
    cells: list[tuple[Candidate, int, int, float]] = []
    for row, one in enumerate(followed[:rows]):
        shown = {**pasts[id(one)], **dict.fromkeys(one.scores, one)}
        cells += [(other, step, row, looks.index(step)) for step, other in shown.items()]
    for step, those in later.items():
        below = zip(range(len(followed), rows), those, strict=False)
        cells += [(one, step, row, looks.index(step)) for row, one in below]
    cells += [
        (one, looks[0], i // across, right + i % across)
        for i, one in enumerate(first[: rows * across])
    ]
    hidden = len(seen) - len({id(one) for one, *_ in cells})

    grid = _Grid(
        rows,
        right + across if first else len(looks),
        seen[0].thumbnails[max(seen[0].scores)].shape[:2],
        result.prompt,
        subtitle=f"{label(result.method)}: {_count(len(candidates), 'candidate')}, "
        f"{result.spent:.3g} {result.unit}, best {result.reward} {scored(result.score, largest)}",
        scores=True,
        headed=bool(followed),
    )
    for one, step, row, column in cells:
        won = one is candidates[result.winner] and step == looks[-1]
        score = one.scores[step]
        words = scored(score, largest) if math.isfinite(score) else "failed"
        grid.picture(row, column, one.thumbnails[step], one.pruned_at == step)
        grid.below(row, column, words, highlighted=won)
        if won:
            grid.frame(row, column)
    if followed:
        for i, step in enumerate(looks):
            number = sum(step in one.scores for one in seen)
            grid.above(i, f"step {step}\n{number} alive")
        if first:
            grid.above(right, f"dropped\nat step {looks[0]}", align="left")
    if hidden:
        grid.foot(f"and {hidden} more")
    grid.save(path)


def _past(candidate: Candidate, candidates: Sequence[Candidate]) -> dict[int, Candidate]:
    """Whose looks came before a candidate's own, by step: its parent's, then theirs."""
    past: dict[int, Candidate] = {}
    earliest, parent = min(candidate.scores), candidate.parent
    while parent is not None:
        ancestor = candidates[parent]
        own = [step for step in ancestor.scores if step < earliest]
        past |= dict.fromkeys(own, ancestor)
        earliest, parent = min([earliest, *own]), ancestor.parent
    return past


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fate(candidate: Candidate) -> tuple[int, float]:
    """Orders candidates: how far one came, then its last score; one that failed comes last."""
    last = max(candidate.scores)
    score = candidate.scores[last]
    return last, score if math.isfinite(score) else -math.inf


def _enlarged(image: np.ndarray) -> np.ndarray:
    """A small picture smoothly enlarged to what is drawn."""
    scale = PIXELS / max(image.shape[:2])
    if scale <= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


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
        left, right, top, bottom = self._box(row, column)
        self.ax.imshow(
            _enlarged(image),
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
