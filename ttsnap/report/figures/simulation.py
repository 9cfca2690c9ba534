"""What strategies would have found, what that is worth, and the schedules chosen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from ttsnap.drawing.style import (
    HALO,
    MUTED,
    REFERENCE,
    WIDTH,
    band,
    colour,
    end_labels,
    head,
    round_ticks,
    save,
    styled,
)
from ttsnap.drawing.words import label
from ttsnap.schedule import DRAFT, Check, Schedule

PRUNING = (
    ("ttsnap", "ttsnap@preview"),
    ("ttsnap", "draft+ttsnap"),
    ("ttsp", "draft+ttsp"),
    ("ttsp", "ttsnap"),
)
"""Pairs of strategies to draw side by side, the first pair that a plan has."""
ROW = 0.82  # height of a row of all candidates, of the distance between rows


@styled
def reward_vs_budget(
    curves: pd.DataFrame, omega: pd.DataFrame, path: Path, *, unit: str = "TFLOPs"
) -> None:
    """Expected final reward against budget, with ω beside each curve; a panel for each reward.

    Args:
        curves: strategy, reward, prunes_by, budget, n, mean, low, high; NaN means are left out.
        omega: strategy, reward, omega, omega_low, omega_high.
        path: PNG or SVG to write, both without a suffix.
        unit: of the budgets.
    """
    # The best plan is one of the others at each budget.
    shown = curves[curves.strategy != "best"].dropna(subset=["mean"])
    rewards = list(shown.reward.unique())
    how = ", pruned by all rewards together" if (shown.prunes_by == "joint").any() else ""
    subtitle = (
        f"Expected reward of the best of stored images{how}.\n"
        "Bands: spread between prompts, which all curves share. ω: gain over best-of-N on the same "
        "prompts,\nas a share of what best-of-N gains over its smallest budget"
    )
    strategies = list(shown.strategy.unique())
    alone = len(rewards) == 1
    height = 3.9 if alone else 3.6
    figure = Figure(figsize=(WIDTH, height))
    head(figure, "Reward for the compute spent", subtitle)
    panels = figure.subplots(1, len(rewards), sharex=True, squeeze=False)[0]
    figure.subplots_adjust(
        left=0.098,
        right=0.78 if alone else 0.975,
        top=1 - (0.98 if alone else 1.4) / height,
        bottom=0.46 / height,
        wspace=0.27,
    )
    for ax, name in zip(panels, rewards, strict=True):
        mine = shown[shown.reward == name]
        for strategy in mine.strategy.unique():
            points = mine[mine.strategy == strategy].sort_values("budget")
            marker = "o" if alone and len(points) < 25 else None
            band(ax, points.budget, points, colour(strategy, strategies), marker=marker)
        ax.margins(x=0.02)
        _few_ticks(ax, 5 if alone else 4)
        ax.set_xlabel(f"budget per prompt, {unit}")
        own = omega[omega.reward == name].set_index("strategy")
        if alone:
            ax.set_ylabel(f"reward ({name})")
            _omega_at_the_ends(ax, mine, own, strategies)
        else:
            ax.set_title(name, color=MUTED)
            _omega_in_the_corner(ax, own, strategies)
    if not alone:
        panels[0].set_ylabel("reward")
        _key(figure, strategies, 0.92)
    save(figure, path)


def _omega_words(gains: pd.DataFrame, strategy: str) -> tuple[str, str]:
    """ω and its interval, in percent; ``gains`` by strategy."""
    columns = ["omega", "omega_low", "omega_high"]
    value, low, high = gains.loc[[strategy], columns].to_numpy()[0]
    return f"ω {value:+z.0f} %".replace("-", "−"), f"[{low:+z.0f}, {high:+z.0f}]".replace("-", "−")


def _omega_at_the_ends(
    ax: Axes, rows: pd.DataFrame, gains: pd.DataFrame, strategies: list[str]
) -> None:
    ends = []
    for name, points in rows.groupby("strategy", sort=False):
        words = label(str(name))
        if name != REFERENCE:
            value, interval = _omega_words(gains, str(name))
            words += f"\n{value} {interval}"
        last = float(points.sort_values("budget")["mean"].iloc[-1])
        ends.append((last, words, colour(str(name), strategies)))
    end_labels(ax, float(rows.budget.max()), ends)


def _omega_in_the_corner(ax: Axes, gains: pd.DataFrame, strategies: list[str]) -> None:
    """At the lower right, which rising curves leave free."""
    compared = [name for name in strategies if name != REFERENCE and name in gains.index]
    for line, name in enumerate(compared):
        ax.annotate(
            " ".join(_omega_words(gains, name)),
            (1, 0),
            xycoords="axes fraction",
            xytext=(-2, 4 + 11 * line),
            textcoords="offset points",
            ha="right",
            size=7.5,
            color=colour(name, strategies),
            path_effects=HALO,
        )


def _key(figure: Figure, strategies: list[str], down: float) -> None:
    """The strategies by colour, in a line so many inches down, below the heading."""
    handles = [
        Line2D([], [], color=colour(name, strategies), label=label(name)) for name in strategies
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.1 / WIDTH, 1 - down / figure.get_figheight()),
        ncols=len(handles),
        frameon=False,
        labelcolor="linecolor",
        fontsize=8.5,
        handlelength=1.4,
        columnspacing=1.6,
        borderpad=0.1,
        borderaxespad=0,
    )


@styled
def schedules_over_budgets(plan: Mapping[str, Any], path: Path, *, reward: str) -> None:
    """The schedules chosen over budgets: who is alive at each step, TTSp and TTSnap side by side,
    or one of them in two ways: by both looks, without drafts and with them.

    Args:
        plan: what plan.json holds: steps, unit of the budgets, plans (strategy, reward, budget, n,
            checks of step and keep), and robust (the same without budget and n: one schedule for
            all budgets).
        path: PNG or SVG to write, both without a suffix.
        reward: the one to draw, by its name in ``plan``.
    """
    plans = [one for one in plan["plans"] if one["reward"] == reward]
    robust = [one for one in plan["robust"] if one["reward"] == reward and one["checks"]]
    known = {one["strategy"] for one in [*plans, *robust]}
    strategies = next(
        (pair for pair in PRUNING if known.issuperset(pair)),
        [name for name in PRUNING[-1] if name in known],
    )
    budgets = sorted({one["budget"] for one in plans})
    pitch = 0.235 if len(budgets) <= 24 else 5.6 / len(budgets)  # inches from row to row
    lowest = 1.5 if robust else 0.0  # rows below the smallest budget
    height = 1.5 + pitch * (len(budgets) + lowest)
    figure = Figure(figsize=(WIDTH, height))
    by = "all rewards together" if reward == "joint" else reward
    head(
        figure,
        "Which schedule to run at which budget",
        f"Pruned by {by}. Height: share of the candidates still alive, and at each drop the "
        "share kept, in percent;\nat the right: candidates drawn and left after each check"
        + ("; all: one schedule for every budget" if robust else ""),
    )
    panels = figure.subplots(1, len(strategies), sharex=True, sharey=True, squeeze=False)[0]
    left, counts = 0.62, 1.1  # inches
    wide = (WIDTH - left) / len(strategies) - counts
    figure.subplots_adjust(
        left=left / WIDTH,
        right=1 - counts / WIDTH,
        top=1 - 1.02 / height,
        bottom=0.46 / height,
        wspace=counts / wide,
    )
    drafted = any(check["step"] == DRAFT for one in [*plans, *robust] for check in one["checks"])
    first = (DRAFT if drafted else 0) - 0.5
    for ax, strategy in zip(panels, strategies, strict=True):
        rows = [(float(budgets.index(one["budget"])), one) for one in plans]
        for place, one in [*rows, *((-lowest, one) for one in robust)]:
            if one["strategy"] == strategy:
                _alive(ax, place, one, (first, plan["steps"] - 0.5), colour(strategy), pitch)
        ax.set_title(label(strategy), color=colour(strategy), weight="bold")
        ax.set_xlabel("step index")
        ax.xaxis.set_major_locator(round_ticks(8, integer=True))
        if drafted:
            ax.set_xticks([DRAFT, *range(2, plan["steps"], -(-plan["steps"] // 7))])
            ax.xaxis.set_major_formatter(lambda x, _: "draft" if x == DRAFT else f"{x:.0f}")
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    ticks = {place + 0.4: f"{budget:g}" for place, budget in enumerate(budgets)}
    if robust:
        ticks[0.4 - lowest] = "all"
    panels[0].set_yticks(list(ticks), list(ticks.values()))
    panels[0].annotate(
        plan["unit"],
        (0, 1),
        xycoords="axes fraction",
        xytext=(-4, 6),
        textcoords="offset points",
        ha="right",
        size=8,
        color=MUTED,
    )
    panels[0].set_xlim(first, plan["steps"] - 0.5)
    panels[0].set_ylim(-lowest - 0.15, len(budgets))
    save(figure, path)


def _alive(
    ax: Axes,
    place: float,
    one: Mapping[str, Any],
    ends: tuple[float, float],
    tint: str,
    pitch: float,
) -> None:
    """One row: the share alive from end to end, what each check keeps, and the counts."""
    checks = [Check(check["step"], check["keep"]) for check in one["checks"]]
    if "n" in one:
        counts = Schedule(tuple(checks)).counts(one["n"])
        shares = [count / counts[0] for count in counts]
        words = "→".join(map(str, counts))
    else:
        shares = list(accumulate((check.keep for check in checks), mul, initial=1.0))
        words = f"{100 * shares[-1]:.2g} % finish"
    edges = [ends[0], *(check.step + 0.5 for check in checks), ends[1]]
    heights = [place + ROW * share for share in shares]
    ax.stairs(heights, edges, baseline=place, fill=True, color=tint, alpha=0.3)
    ax.stairs(heights, edges, baseline=None, color=tint, linewidth=0.9)
    for check, share in zip(checks, shares[1:], strict=True):
        ax.annotate(
            f"{100 * check.keep:.0f}",
            (check.step + 0.5, place + ROW * share),
            xytext=(2, 1.2),
            textcoords="offset points",
            size=min(6.2, 72 * pitch * 0.42),
            color=tint,
            path_effects=[withStroke(linewidth=1.4, foreground="white")],
        )
    ax.annotate(
        words,
        (1, place + ROW / 2),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        size=7,
        color=MUTED,
    )


@styled
def omega(table: pd.DataFrame, path: Path) -> None:
    """ω of every strategy and reward, and what it amounts to, with intervals.

    Args:
        table: strategy, reward, omega (percent), equivalent_n_ratio and compute_for_same_reward
            (shares of 1), each with _low and _high; NaN is left out.
        path: PNG or SVG to write, both without a suffix.
    """
    rows = table[table.strategy != REFERENCE]
    strategies = list(rows.strategy.unique())
    groups = list(rows.groupby("reward", sort=False))
    inches = 0.25 * len(rows) + 0.1 * len(groups)
    height = 1.5 + inches
    figure = Figure(figsize=(WIDTH, height))
    head(
        figure,
        "What pruning is worth against best-of-N",
        "ω: gain in area between the curves. Worth: how many times its candidates best-of-N would "
        "need\nfor the same reward. In brackets: 95 % interval over prompts",
    )
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(
        left=0.15, right=0.98, top=1 - 1.12 / height, bottom=0.32 / height, wspace=0.12
    )
    columns = {
        "omega": ("ω, %", 0, 1, "{:+z.0f}"),
        "equivalent_n_ratio": ("worth × candidates", 1, 1, "{:.2f}"),
        "compute_for_same_reward": ("compute for the same, %", 100, 100, "{:.0f}"),
    }
    ticks = {}
    place = 0.0
    for name, group in groups:
        ticks[place + (len(group) - 1) / 2] = name
        for _, row in group.iterrows():
            tint = colour(row.strategy, strategies)
            for ax, (column, (_, _, factor, form)) in zip(panels, columns.items(), strict=True):
                value = factor * row[column]
                ends = [factor * row[f"{column}_{end}"] for end in ("low", "high")]
                ax.plot(
                    ends,
                    [place, place],
                    color=tint,
                    linewidth=2.2,
                    alpha=0.55,
                )
                ax.plot(value, place, "o", color=tint, markersize=5)
                if np.isfinite([value, *ends]).all():
                    words, low, high = (form.format(one) for one in (value, *ends))
                    words = f"{words} [{low}, {high}]".replace("-", "−")
                    _above(ax, words, (value, place), tint)
            place += 1
        place += 0.4
    for ax, (title, reference, _, _) in zip(panels, columns.values(), strict=True):
        ax.axvline(reference, color=colour(REFERENCE), linewidth=1.2)
        ax.set_title(title, color=MUTED)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.22)
        ax.xaxis.set_major_locator(round_ticks(4))
    panels[0].set_yticks(list(ticks), list(ticks.values()))
    panels[0].set_ylim(place - 0.4 - 0.6, -0.75)
    _key(figure, [REFERENCE, *strategies], 0.72)
    save(figure, path)


def _above(ax: Axes, words: str, spot: tuple[float, float], tint: str) -> None:
    """``words`` over the dot at ``spot``."""
    ax.annotate(
        words,
        spot,
        xytext=(0, 4.5),
        textcoords="offset points",
        ha="center",
        size=7.5,
        color=tint,
        path_effects=HALO,
    )


def _few_ticks(ax: Axes, x: int) -> None:
    """About ``x`` ticks along the budgets, and one more along the rewards."""
    ax.xaxis.set_major_locator(round_ticks(x))
    ax.yaxis.set_major_locator(round_ticks(x + 1))
