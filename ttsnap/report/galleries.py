"""Galleries of pictures: trajectories of a prompt, and what the methods found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ttsnap.drawing.captions import caption, families
from ttsnap.drawing.grid import Grid, enlarged
from ttsnap.drawing.style import BLUE, FAINT, MUTED, WIDTH, colour, head, save, styled
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
    """Steps across, candidates down; what a pruned candidate would have become is pale.

    Args:
        images: (candidates, steps, H, W, 3) uint8, the decoded Tweedie estimates, in any order.
        scores: (candidates,) reward of the final images.
        steps: step index of each column.
        prompt: the caption above; shortened if long.
        path: PNG or SVG to write.
        pruned_at: step index of the check that drops each candidate, None for those kept; without
            it nothing is pale.
    """
    dropped = list(pruned_at or [None] * len(images))
    subtitle = "The image that each step expects"
    if pruned_at:
        subtitle += "; small and pale: dropped"
    grid = Grid(
        len(images),
        len(steps),
        images.shape[2:4],
        prompt,
        subtitle=subtitle,
        note="final reward",
    )
    largest = max(map(abs, scores))
    # Who lived longer stands above, of these who is better in the end.
    lived = [math.inf if drop is None else drop for drop in dropped]
    order = sorted(range(len(images)), key=lambda i: (lived[i], scores[i]), reverse=True)
    for column, step in enumerate(steps):
        grid.above(column, f"step {step}" if column == 0 else f"{step}")
    for row, i in enumerate(order):
        drop = dropped[i]
        for column, step in enumerate(steps):
            grid.picture(row, column, images[i, column], drop is not None and step > drop)
        fate = "best" if row == 0 else "" if drop is None else f"out at {drop}"
        grid.beside(row, scored(scores[i], largest), fate, highlighted=row == 0)
    grid.frame(0, len(steps) - 1)
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
    """What each method returned: a block for each prompt, in it a column for each method.

    Args:
        images: by prompt and method, uint8 (H, W, 3), all of one size.
        scores: (prompts, methods); the highest of a prompt is framed, with those that read alike.
        prompts: above the blocks; shortened.
        methods: above the columns.
        path: PNG or SVG to write.
        subtitle: what the images have in common, such as the budget.
    """
    margin, top, gap, between = 0.1, 0.72, 0.06, 0.25  # inches
    wide = WIDTH - 2 * margin + between
    across = int(wide / (len(methods) * (0.9 + gap) + between))
    across = min(max(across, 1), len(prompts))
    cell = min(1.1, (wide / across - between) / len(methods) - gap)
    block = len(methods) * (cell + gap)
    tall = cell * images[0][0].shape[0] / images[0][0].shape[1]
    lines = 1 if across == 1 else 3
    words, names = 0.16 * lines, 0.36 if cell < 0.8 else 0.22  # inches: of a prompt, of the methods
    row = words + names + tall + 0.42
    height = top + -(-len(prompts) // across) * row + margin
    figure = Figure(figsize=(WIDTH, height))
    head(figure, "What each method found", subtitle)
    largest = float(np.abs(scores).max())
    for i, prompt in enumerate(prompts):
        left = margin + i % across * (block + between)
        y = height - top - i // across * row
        text = caption(prompt, block, lines)
        figure.text(
            left / WIDTH, y / height, text, family=families(text), size=8, color=MUTED, va="top"
        )
        written = [scored(score, largest) for score in scores[i]]
        for j, method in enumerate(methods):
            x, upper = left + j * (cell + gap), y - words - names
            name = "\n".join(label(method).rsplit(" ", 1)) if cell < 0.8 else label(method)
            figure.text(
                (x + cell / 2) / WIDTH,
                (upper + 0.04) / height,
                name,
                size=7.5 if cell > 0.55 else 6.5,
                color=colour(method, methods),
                weight="bold",
                ha="center",
                va="bottom",
            )
            box = (x / WIDTH, (upper - tall) / height, cell / WIDTH, tall / height)
            ax = figure.add_axes(box)
            ax.imshow(enlarged(images[i][j]), interpolation="antialiased", aspect="auto")
            ax.set(xticks=[], yticks=[])
            best = written[j] == written[int(scores[i].argmax())]
            for spine in ax.spines.values():
                spine.set(
                    visible=True, color=BLUE if best else FAINT, linewidth=2.2 if best else 0.5
                )
            ax.set_xlabel(
                written[j],
                size=7.5,
                labelpad=2.5,
                color=BLUE if best else MUTED,
                weight="bold" if best else "normal",
            )
    save(figure, path)
