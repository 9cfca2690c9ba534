"""What live searches found for what they spent, by the reward and by judges that they never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ttsnap.drawing.style import (
    FAINT,
    HALO,
    MUTED,
    REFERENCE,
    WIDTH,
    colour,
    head,
    round_ticks,
    save,
    styled,
)
from ttsnap.drawing.words import label, scored
from ttsnap.stats import mean_interval


@styled
def live(results: pd.DataFrame, path: Path, *, reward: str) -> None:
    """Reward of the live searches at equal compute, and the paired difference to best-of-N.

    Args:
        results: method, budget, unit, prompt_id, reward, n.
        path: PNG or SVG to write, both without a suffix.
        reward: name of the reward, for the axis.
    """
    _comparison(
        results,
        "reward",
        path,
        f"reward ({reward})",
        "Live search at equal compute",
        "Reward of the best image found for each test prompt, mean with 95 % interval over prompts;"
        "\nright: the same prompts compared with best-of-N, bold where the interval leaves out 0",
    )


@styled
def oracle_accuracy(results: pd.DataFrame, path: Path) -> None:
    """Share of captions that hold in the image found, by the oracle no search has seen.

    Args:
        results: method, budget, unit, prompt_id, oracle, n.
        path: PNG or SVG to write, both without a suffix.
    """
    _comparison(
        results,
        "oracle",
        path,
        "share of captions that hold",
        "Does the picture show its caption?",
        "Judged by an oracle that no search sees, mean with 95 % interval over prompts;\n"
        "right: the same prompts compared with best-of-N, bold where the interval leaves out 0",
    )


@styled
def held_out(results: pd.DataFrame, path: Path, *, reward: str) -> None:
    """Score of the image found by a reward that no search has seen.

    A method that only fools its own reward gains in :func:`live` and not here.

    Args:
        results: method, budget, unit, prompt_id, held_out, n.
        path: PNG or SVG to write, both without a suffix.
        reward: name of the reward that judges, for the axis.
    """
    _comparison(
        results,
        "held_out",
        path,
        f"held-out reward ({reward})",
        "Does another reward agree?",
        "Judged by a reward that no search uses, mean with 95 % interval over prompts;\n"
        "right: the same prompts compared with best-of-N, bold where the interval leaves out 0",
    )


def _comparison(
    results: pd.DataFrame, column: str, path: Path, axis: str, title: str, subtitle: str
) -> None:
    """Means by budget and method at the left, paired differences to best-of-N at the right."""
    methods = ranked_methods(results, column)
    budgets = sorted(results.budget.unique())
    unit = results.unit.iloc[0]
    tables = _by_prompt(results, column)
    counts = results.groupby(["method", "budget"]).n.median()
    gap = 1.5  # rows, for the heading of a budget
    places = {
        (budget, name): group * (len(methods) + gap) + row
        for group, budget in enumerate(budgets)
        for row, name in enumerate(methods)
    }
    rows = len(budgets) * (len(methods) + gap)
    height = 1.25 + 0.205 * rows
    figure = Figure(figsize=(WIDTH, height))
    head(figure, title, subtitle)
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(
        left=0.235, right=0.775, top=1 - 0.78 / height, bottom=0.46 / height, wspace=0.29
    )
    largest = float(results[column].abs().max())
    for (budget, name), place in places.items():
        values, tint = tables[name][budget], colour(name, methods)
        shown = [values]
        if name != REFERENCE and REFERENCE in tables:
            shown.append(values - tables[REFERENCE][budget])
        for ax, numbers in zip(panels, shown, strict=False):
            if numbers.isna().all():
                continue
            mean, low, high = map(float, mean_interval(numbers.dropna().to_numpy()))
            ax.hlines(place, low, high, color=tint, linewidth=2.2, alpha=0.55)
            ax.plot(mean, place, "o", color=tint, markersize=5)
            words = scored(mean, largest)
            if ax is panels[1]:
                words = scored(mean, largest, "+")
                words += f" [{scored(low, largest)}, {scored(high, largest)}]"
            ax.annotate(
                words,
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                size=7,
                color=tint,
                va="center",
                weight="bold" if ax is panels[1] and low * high > 0 else "normal",
            )
    panels[1].axvline(0, color=colour(REFERENCE), linewidth=1.2)
    panels[0].set_yticks(
        list(places.values()),
        [f"{label(name)}, N = {counts[name, budget]:.0f}" for budget, name in places],
        size=7.5,
    )
    for tick, (_, name) in zip(panels[0].get_yticklabels(), places, strict=True):
        tick.set_color(colour(name, methods))
    panels[0].set_ylim(rows - gap - 0.4, -1.4)
    for budget in budgets:
        panels[0].annotate(
            f"{budget:g} {unit}",
            (0, places[budget, methods[0]] - 1),
            xycoords=("axes fraction", "data"),
            xytext=(-7, 0),
            textcoords="offset points",
            size=8.5,
            weight="bold",
            ha="right",
            va="center",
        )
    for ax in panels:
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.06)
        ax.xaxis.set_major_locator(round_ticks(5))
    panels[0].set_xlabel(axis)
    panels[1].set_xlabel("difference to best-of-N")
    save(figure, path)


def ranked_methods(results: pd.DataFrame, column: str = "reward") -> list[str]:
    """The methods of ``results``: best-of-N, then by their mean over budgets, best first."""
    means = results.groupby("method")[column].mean()
    return sorted(means.index, key=lambda name: (name != REFERENCE, -np.nan_to_num(means[name])))


def _by_prompt(results: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """Per method a table (prompt, budget)."""
    return {
        str(name): rows.pivot(index="prompt_id", columns="budget", values=column)
        for name, rows in results.groupby("method")
    }


@styled
def against_compute(results: pd.DataFrame, column: str, path: Path, *, axis: str) -> None:
    """One metric against what was really spent: a panel per method, the others behind it in grey.

    Args:
        results: method, budget, unit, prompt_id, spent and ``column``, where NaN is left out.
        column: the metric.
        path: PNG or SVG to write, both without a suffix.
        axis: name of the metric.
    """
    methods = ranked_methods(results, column)
    unit = results.unit.iloc[0]
    curves = {name: _curve(results[results.method == name], column) for name in methods}
    shown = [name for name in methods if name != REFERENCE] or methods
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    height = 1.2 + 1.55 * down
    figure = Figure(figsize=(WIDTH, height))
    head(
        figure,
        f"{axis[0].upper()}{axis[1:]} for the compute spent",
        "Mean over test prompts with 95 % interval; dashed: best-of-N; grey: the other methods",
    )
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.095,
        right=0.54 if len(shown) == 1 else 0.98,
        top=1 - 0.82 / height,
        bottom=0.44 / height,
        wspace=0.1,
        hspace=0.24,
    )
    for place, ax in enumerate(panels.flat):
        if place >= len(shown):
            ax.axis("off")
            continue
        name = shown[place]
        for other, curve in curves.items():
            if other not in (name, REFERENCE):
                ax.plot(curve.spent, curve["mean"], ".-", color=FAINT, linewidth=1, markersize=4)
        if REFERENCE in curves:
            curve = curves[REFERENCE]
            ax.plot(
                curve.spent,
                curve["mean"],
                color=colour(REFERENCE),
                dashes=(3, 2),
                marker="o",
                markersize=3.5,
            )
        curve, tint = curves[name], colour(name, methods)
        ax.errorbar(
            curve.spent,
            curve["mean"],
            yerr=(curve["mean"] - curve.low, curve.high - curve["mean"]),
            color=tint,
            marker="o",
            markersize=3.5,
            elinewidth=1.2,
        )
        ax.set_title(label(name), color=tint, weight="bold", pad=3)
        ax.margins(x=0.08)
        ax.xaxis.set_major_locator(round_ticks(3))
        ax.yaxis.set_major_locator(round_ticks(5))
        if place + across >= len(shown):
            ax.set_xlabel(f"{unit} per prompt")
            ax.tick_params(labelbottom=True)
    for row in panels:
        row[0].set_ylabel(axis)
    save(figure, path)


def _curve(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean spent, and mean of ``column`` with its interval, by budget."""
    points = []
    for _, group in rows.dropna(subset=[column]).groupby("budget"):
        mean, low, high = mean_interval(group.sort_values("prompt_id")[column].to_numpy())
        points.append((group.spent.mean(), float(mean), float(low), float(high)))
    return pd.DataFrame(points, columns=["spent", "mean", "low", "high"])


@styled
def reward_by(
    results: pd.DataFrame, column: str, path: Path, *, title: str, methods: list[str]
) -> None:
    """Mean reward against what a search spent, small enough for a telephone.

    Args:
        results: method, budget, unit, prompt_id, reward, spent, seconds.
        column: ``spent``, in the unit of budgets, or ``seconds``.
        path: PNG or SVG to write, both without a suffix.
        title: what the reward is called.
        methods: those in colour, the others are grey. Their bars are the interval of the paired
            difference to best-of-N.
    """
    figure = Figure(figsize=(3.7, 2.9))
    ax = figure.add_axes((0.155, 0.155, 0.775, 0.76))
    tables = _by_prompt(results, "reward")
    for name in sorted(tables, key=lambda one: (one in methods, one != REFERENCE)):
        spent = results[results.method == name].groupby("budget")[column].mean()
        means = tables[name].mean()
        shown = name in methods
        tint = colour(name, list(tables)) if shown else FAINT
        dashes = (3, 2) if name == REFERENCE else (None, None)
        ax.plot(spent, means, color=tint, marker="o", markersize=4.5, dashes=dashes)
        if not shown:
            continue
        # The reference lies lower, and further to the left where it is faster.
        end = 0 if name == REFERENCE else -1
        ax.annotate(
            label(name),
            (spent.iloc[end], means.iloc[end]),
            xytext=(0, -14) if name == REFERENCE else (-5, 8),
            textcoords="offset points",
            ha="center" if name == REFERENCE else "right",
            size=9,
            color=tint,
            path_effects=HALO,
        )
        if name == REFERENCE or REFERENCE not in tables:
            continue
        for budget, at, mean in zip(means.index, spent, means, strict=True):
            pairs = (tables[name][budget] - tables[REFERENCE][budget]).dropna()
            middle, low, high = map(float, mean_interval(pairs.to_numpy()))
            ends = (mean + low - middle, mean + high - middle)
            ax.vlines(at, *ends, color=tint, linewidth=1.6, alpha=0.6)
    unit = results.unit.iloc[0] if column == "spent" else "seconds"
    ax.set_xlabel(f"{unit} per prompt")
    ax.set_title(title, color=MUTED, size=9)
    ax.set_xlim(0, None)
    ax.margins(y=0.2)
    ax.xaxis.set_major_locator(round_ticks(5))
    ax.yaxis.set_major_locator(round_ticks(5))
    save(figure, path)
