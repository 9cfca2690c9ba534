"""Galleries of pictures: trajectories of a prompt, and what the methods found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ttsnap.drawing.captions import caption
from ttsnap.drawing.grid import Grid, enlarged
from ttsnap.drawing.style import BLUE, MUTED, WIDTH, colour, head, save, styled
from ttsnap.drawing.words import label, scored


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
    grid = Grid(len(images), len(steps), images.shape[2:4], prompt, note="final reward")
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
            ax.imshow(enlarged(images[i][j]), interpolation="antialiased", aspect="auto")
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
