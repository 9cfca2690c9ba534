"""What a budget buys, and what the stages of the run took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ttsnap.drawing.style import (
    INK,
    MUTED,
    REFERENCE,
    WIDTH,
    colour,
    head,
    round_ticks,
    save,
    styled,
)
from ttsnap.drawing.words import label
from ttsnap.schedule import CostModel, Schedule


@styled
def costs(prices: CostModel, schedule: Schedule, budget: float, path: Path) -> None:
    """What a budget buys: candidates alive by step, whose area is the compute, and the prices.

    Args:
        prices: of evaluation, decode and reward.
        schedule: of TTSnap.
        budget: in the unit of the prices.
        path: PNG or SVG to write, both without a suffix.
    """
    figure = Figure(figsize=(WIDTH, 3.1))
    head(
        figure,
        f"What {budget:g} {prices.unit} buy",
        "Candidates alive at each step: best-of-N finishes few, pruning starts many",
    )
    ax, bars = figure.subplots(1, 2, width_ratios=(2.1, 1))
    figure.subplots_adjust(left=0.075, right=0.97, top=0.8, bottom=0.155, wspace=0.5)
    edges = [0, *(check.step + 1 for check in schedule.checks), prices.steps]
    for name, checks in ((REFERENCE, Schedule()), ("ttsnap", schedule)):
        n = prices.largest_n(budget, checks)
        alive = checks.counts(n)
        bounds = edges if checks.checks else [0, prices.steps]
        tint = colour(name)
        ax.stairs(alive, bounds, fill=True, color=tint, alpha=0.16)
        ax.stairs(alive, bounds, color=tint, linewidth=1.8, baseline=None)
        spot = (bounds[0] + 0.15, n) if checks.checks else (prices.steps, n)
        ax.annotate(
            f"{label(name)}: {' → '.join(map(str, alive))}",
            spot,
            xytext=(0, 3.5),
            textcoords="offset points",
            color=tint,
            size=8.5,
            ha="left" if checks.checks else "right",
        )
    ax.set(xlim=(0, prices.steps), xlabel="denoiser evaluations", ylabel="candidates alive")
    ax.set_ylim(0, ax.get_ylim()[1] * 1.1)
    ax.xaxis.set_major_locator(round_ticks(8, integer=True))
    ax.yaxis.set_major_locator(round_ticks(6, integer=True))
    parts = {
        "full run": prices.cost(1),
        "one evaluation": prices.denoise,
        "one decode": prices.decode,
        "one score": prices.reward,
    }
    bars.barh(range(len(parts)), list(parts.values()), color=MUTED, height=0.55)
    bars.set_yticks(range(len(parts)), list(parts))
    bars.invert_yaxis()
    for place, value in enumerate(parts.values()):
        bars.annotate(
            f"{100 * value / prices.cost(1):.3g} %",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=INK,
        )
    bars.set_xlim(0, 1.25 * max(parts.values()))
    bars.set_title(f"share of a full run,\n{prices.cost(1):.3g} {prices.unit}", color=MUTED)
    bars.grid(visible=False)
    bars.tick_params(axis="y", length=0)
    bars.set_xticks([])
    bars.spines["bottom"].set_visible(False)
    save(figure, path)


@styled
def stages(table: pd.DataFrame, path: Path) -> None:
    """What each stage took: job time, memory and TFLOPs, each number beside its bar.

    Args:
        table: stage, jobs, seconds, memory_gb, tflops (NaN where unknown), a row per stage.
        path: PNG or SVG to write, both without a suffix.
    """
    height = 1.15 + 0.22 * len(table)
    figure = Figure(figsize=(WIDTH, height))
    head(
        figure,
        "What the run took",
        f"{_duration(table.seconds.sum())} of jobs in all; the clock shows less where they ran "
        "side by side.\nTime and TFLOPs of the jobs of a stage together; memory of its largest job",
    )
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(
        left=0.2, right=0.92, top=1 - 0.98 / height, bottom=0.08 / height, wspace=0.8
    )
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("seconds", "time", _duration),
        ("memory_gb", "memory, GB", lambda value: f"{value:.2g}"),
        ("tflops", "TFLOPs", lambda value: f"{value:.3g}"),
    ]
    for ax, (column, title, text) in zip(panels, columns, strict=True):
        values = table[column].fillna(0.0)
        ax.barh(range(len(table)), values, height=0.62, color=colour("base"))
        ax.set_xlim(0, max(values.max(), 1e-12))
        for row, value in enumerate(values):
            if value:
                ax.annotate(
                    text(value), (value, row), (4, 0), textcoords="offset points", va="center"
                )
        ax.set_title(title)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_xticks([])
        ax.tick_params(left=False)
    panels[0].set_yticks(range(len(table)), table.stage + " × " + table.jobs.astype(str))
    panels[0].invert_yaxis()
    save(figure, path)


def _duration(seconds: float) -> str:
    """Such as 2 h 05 min, 7 min 45 s or 3 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s" if rest else "< 1 s"
