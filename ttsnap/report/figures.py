"""The charts of the report; each takes tidy tables, draws one figure and writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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
from matplotlib.ticker import MaxNLocator

from ttsnap.progress import clock
from ttsnap.report.style import (
    FAINT,
    INK,
    MUTED,
    WIDTH,
    colour,
    end_labels,
    head,
    label,
    save,
    scored,
    styled,
)
from ttsnap.schedule import Check, CostModel, Schedule
from ttsnap.stats import mean_interval

REFERENCE = "best-of-n"
PRUNING = ("ttsp", "ttsnap")
ROW = 0.82  # height of a row of all candidates, of the distance between rows
HALO = [withStroke(linewidth=2.5, foreground="white")]  # keeps a text readable over lines


@styled
def rank_consistency(evaluation: pd.DataFrame, path: Path, *, schedule: Schedule) -> None:
    """Kendall τ with the final reward by step, base against finetuned, and the gain below.

    Args:
        evaluation: step, kind (base, finetuned, difference), metric, mean, low, high.
        path: PNG or SVG to write.
        schedule: its checks are marked.
    """
    tau = evaluation[(evaluation.metric == "kendall_tau") & (evaluation.step >= 0)]
    figure = Figure(figsize=(WIDTH, 4.2))
    head(
        figure,
        "How well early images foretell the final ranking",
        "Kendall τ between the reward "
        "of the image estimated at a step and that of the final image,\nmean over test prompts "
        "with 95 % interval; dashed: where the search prunes",
    )
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    figure.subplots_adjust(left=0.085, right=0.98, top=0.8, bottom=0.1, hspace=0.14)
    for kind in ("base", "finetuned"):
        rows = tau[tau.kind == kind].sort_values("step")
        _band(upper, rows.step, rows, colour(kind), name=label(kind))
    # Curves end at the upper right, which leaves the lower right free.
    upper.legend(loc="lower right", frameon=False, labelcolor="linecolor", fontsize=9, reverse=True)
    gain = tau[tau.kind == "difference"].sort_values("step")
    lower.axhline(0, color=MUTED, linewidth=0.8)
    _band(lower, gain.step, gain, colour("difference"))
    for ax in (upper, lower):
        for check in schedule.checks:
            ax.axvline(check.step, color=MUTED, linewidth=0.8, dashes=(3, 3))
    upper.set_ylabel("Kendall τ")
    lower.set_ylabel("gain")
    lower.set_xlabel("step index")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.margins(x=0.02)
    save(figure, path)


@styled
def reward_vs_budget(
    curves: pd.DataFrame, omega: pd.DataFrame, path: Path, *, unit: str = "TFLOPs"
) -> None:
    """Expected final reward against budget, with ω beside each curve; a panel for each reward.

    Args:
        curves: strategy, reward, prunes_by, budget, n, mean, low, high; NaN means are left out.
        omega: strategy, reward, omega, omega_low, omega_high.
        path: PNG or SVG to write.
        unit: of the budgets.
    """
    shown = curves.dropna(subset=["mean"])
    rewards = list(shown.reward.unique())
    how = ", pruned by all rewards together" if (shown.prunes_by == "joint").any() else ""
    subtitle = (
        f"Expected reward of the best of stored images{how}; bands: 95 % interval over prompts.\n"
        "ω: gain over best-of-N, as a share of what best-of-N gains over its smallest budget"
    )
    strategies = list(shown.strategy.unique())
    alone = len(rewards) == 1
    height = 3.7 if alone else 3.4
    figure = Figure(figsize=(WIDTH, height))
    head(figure, "Reward for the compute spent", subtitle)
    panels = figure.subplots(1, len(rewards), sharex=True, squeeze=False)[0]
    figure.subplots_adjust(
        left=0.098,
        right=0.78 if alone else 0.975,
        top=1 - (0.78 if alone else 1.2) / height,
        bottom=0.46 / height,
        wspace=0.27,
    )
    for ax, name in zip(panels, rewards, strict=True):
        mine = shown[shown.reward == name]
        for strategy in mine.strategy.unique():
            points = mine[mine.strategy == strategy].sort_values("budget")
            marker = "o" if alone and len(points) < 25 else None
            _band(ax, points.budget, points, colour(strategy, strategies), marker=marker)
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
        _key(figure, strategies)
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
            words += f"  {value}\n{interval}"
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


def _key(figure: Figure, strategies: list[str]) -> None:
    """The strategies by colour, in a line below the heading."""
    handles = [
        Line2D([], [], color=colour(name, strategies), label=label(name)) for name in strategies
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.1 / WIDTH, 1 - 0.72 / figure.get_figheight()),
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
    """The schedules chosen over budgets: who is alive at each step, TTSp and TTSnap side by side.

    Args:
        plan: what plan.json holds: steps, unit of the budgets, plans (strategy, reward, budget, n,
            checks of step and keep), and robust (the same without budget and n: one schedule for
            all budgets).
        path: PNG or SVG to write.
        reward: the one to draw, by its name in ``plan``.
    """
    plans = [one for one in plan["plans"] if one["reward"] == reward]
    robust = [one for one in plan["robust"] if one["reward"] == reward and one["checks"]]
    strategies = [
        name for name in PRUNING if any(one["strategy"] == name for one in [*plans, *robust])
    ]
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
    for ax, strategy in zip(panels, strategies, strict=True):
        rows = [(float(budgets.index(one["budget"])), one) for one in plans]
        for place, one in [*rows, *((-lowest, one) for one in robust)]:
            if one["strategy"] == strategy:
                _alive(ax, place, one, plan["steps"], colour(strategy), pitch)
        ax.set_title(label(strategy), color=colour(strategy), weight="bold")
        ax.set_xlabel("step index")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
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
    panels[0].set_xlim(-0.5, plan["steps"] - 0.5)
    panels[0].set_ylim(-lowest - 0.15, len(budgets))
    save(figure, path)


def _alive(
    ax: Axes, place: float, one: Mapping[str, Any], steps: int, tint: str, pitch: float
) -> None:
    """One row: the share alive by step, what each check keeps, and the counts."""
    checks = [Check(check["step"], check["keep"]) for check in one["checks"]]
    if "n" in one:
        counts = Schedule(tuple(checks)).counts(one["n"])
        shares = [count / counts[0] for count in counts]
        words = "→".join(map(str, counts))
    else:
        shares = list(accumulate((check.keep for check in checks), mul, initial=1.0))
        words = f"{100 * shares[-1]:.2g} % finish"
    edges = [-0.5, *(check.step + 0.5 for check in checks), steps - 0.5]
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
        path: PNG or SVG to write.
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
        "ω: gain in area between the curves; N: candidates best-of-N would need for the reward;\n"
        "compute: what the strategy needs for the reward of best-of-N; 95 % interval over prompts",
    )
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(
        left=0.15, right=0.98, top=1 - 1.12 / height, bottom=0.32 / height, wspace=0.12
    )
    columns = {
        "omega": ("ω, %", 0, 1, "{:+z.1f}"),
        "equivalent_n_ratio": ("N of an equal best-of-N", 1, 1, "× {:.2f}"),
        "compute_for_same_reward": ("compute it takes, %", 100, 100, "{:.0f} %"),
    }
    ticks = {}
    place = 0.0
    for name, group in groups:
        ticks[place + (len(group) - 1) / 2] = name
        for _, row in group.iterrows():
            tint = colour(row.strategy, strategies)
            for ax, (column, (_, _, factor, form)) in zip(panels, columns.items(), strict=True):
                value = factor * row[column]
                ax.plot(
                    [factor * row[f"{column}_low"], factor * row[f"{column}_high"]],
                    [place, place],
                    color=tint,
                    linewidth=2.2,
                    alpha=0.55,
                )
                ax.plot(value, place, "o", color=tint, markersize=5)
                words = form.format(value).replace("-", "−") if np.isfinite(value) else ""
                _above(ax, words, (value, place), tint)
            place += 1
        place += 0.4
    for ax, (title, reference, _, _) in zip(panels, columns.values(), strict=True):
        ax.axvline(reference, color=colour(REFERENCE), linewidth=1.2)
        ax.set_title(title, color=MUTED)
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.22)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_yticks(list(ticks), list(ticks.values()))
    panels[0].set_ylim(place - 0.4 - 0.6, -0.75)
    _key(figure, [REFERENCE, *strategies])
    save(figure, path)


@styled
def live(results: pd.DataFrame, path: Path, *, reward: str) -> None:
    """Reward of the live searches at equal compute, and the paired difference to best-of-N.

    Args:
        results: method, budget, unit, prompt_id, reward, n.
        path: PNG or SVG to write.
        reward: name of the reward, for the axis.
    """
    _comparison(
        results,
        "reward",
        path,
        f"reward ({reward})",
        "Live search at equal compute",
        "Reward of the best image found for each test prompt, mean with 95 % interval over prompts;"
        "\nright: the same prompts compared with best-of-N",
    )


@styled
def oracle_accuracy(results: pd.DataFrame, path: Path) -> None:
    """Share of captions that hold in the image found, by the oracle no search has seen.

    Args:
        results: method, budget, unit, prompt_id, oracle, n.
        path: PNG or SVG to write.
    """
    _comparison(
        results,
        "oracle",
        path,
        "oracle accuracy",
        "Does the picture show its caption?",
        "Judged by the oracle, which no search sees, mean with 95 % interval over prompts;\n"
        "right: the same prompts compared with best-of-N",
    )


@styled
def held_out(results: pd.DataFrame, path: Path, *, reward: str) -> None:
    """Score of the image found by a reward that no search has seen.

    A method that only fools its own reward gains in :func:`live` and not here.

    Args:
        results: method, budget, unit, prompt_id, held_out, n.
        path: PNG or SVG to write.
        reward: name of the reward that judges, for the axis.
    """
    _comparison(
        results,
        "held_out",
        path,
        f"held-out reward ({reward})",
        "Does another reward agree?",
        "Judged by a reward that no search uses, mean with 95 % interval over prompts;\n"
        "right: the same prompts compared with best-of-N",
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
        left=0.235, right=0.915, top=1 - 0.78 / height, bottom=0.46 / height, wspace=0.27
    )
    largest = float(results[column].abs().max())
    for (budget, name), place in places.items():
        values, tint = tables[name][budget], colour(name, methods)
        shown: list[tuple[pd.Series, Callable[[float], str]]] = [
            (values, partial(scored, largest=largest))
        ]
        if name != REFERENCE and REFERENCE in tables:
            apart = values - tables[REFERENCE][budget]
            shown.append((apart, partial(scored, largest=largest, sign="+")))
        for ax, (numbers, words) in zip(panels, shown, strict=False):
            if numbers.isna().all():
                continue
            row = numbers.dropna().to_numpy()[:, None]
            mean = _dots(ax, row, np.array([place]), tint)
            ax.annotate(
                words(float(mean[0])),
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                size=7.5,
                color=tint,
                va="center",
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
        ax.xaxis.set_major_locator(MaxNLocator(5))
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
        path: PNG or SVG to write.
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
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.yaxis.set_major_locator(MaxNLocator(5))
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
def costs(prices: CostModel, schedule: Schedule, budget: float, path: Path) -> None:
    """What a budget buys: candidates alive by step, whose area is the compute, and the prices.

    Args:
        prices: of evaluation, decode and reward.
        schedule: of TTSnap.
        budget: in the unit of the prices.
        path: PNG or SVG to write.
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
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    parts = {
        "full run": prices.cost(1),
        "evaluation": prices.denoise,
        "decode": prices.decode,
        "score": prices.reward,
    }
    bars.barh(range(len(parts)), list(parts.values()), color=MUTED, height=0.55)
    bars.set_yticks(range(len(parts)), list(parts))
    bars.invert_yaxis()
    for place, value in enumerate(parts.values()):
        bars.annotate(
            f"{value:.3g}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=INK,
        )
    bars.set_xlim(0, 1.25 * max(parts.values()))
    bars.set_title(f"{prices.unit} for one candidate", color=MUTED)
    bars.grid(visible=False)
    bars.tick_params(axis="y", length=0)
    bars.set_xticks([])
    bars.spines["bottom"].set_visible(False)
    save(figure, path)


@styled
def training(histories: Mapping[int, pd.DataFrame], path: Path) -> None:
    """Loss and validation τ of noise-aware finetuning, one column per step.

    Args:
        histories: step index -> iteration, loss, val_kendall_tau (NaN between validations), kept
            (true where the weights were taken).
        path: PNG or SVG to write.
    """
    steps = sorted(histories, reverse=True)
    bands = -(-len(steps) // 8)
    columns = -(-len(steps) // bands)
    left, top, tall, band_height = 0.7, 0.78, 0.85, 2.5  # inches
    wide = (WIDTH - left - 0.1) / columns
    height = top + bands * band_height - 0.25
    figure = Figure(figsize=(WIDTH, height))
    head(
        figure,
        "Noise-aware finetuning, from clean steps to noisy ones",
        "Training loss above, "
        "Kendall τ on validation prompts below, by iteration; ringed: the weights that were kept",
    )
    losses = pd.concat([history.loss for history in histories.values()])
    taus = pd.concat([history.val_kendall_tau for history in histories.values()]).dropna()
    room = 0.12 * max(float(taus.max() - taus.min()), 0.01)
    tint = colour("finetuned")
    for place, step in enumerate(steps):
        band, column = divmod(place, columns)
        above, below = (
            figure.add_axes(
                (
                    (left + column * wide) / WIDTH,
                    1 - (top + band * band_height + (row + 1) * tall + row * 0.14) / height,
                    (wide - 0.1) / WIDTH,
                    tall / height,
                )
            )
            for row in range(2)
        )
        history = histories[step]
        smooth = history.loss.rolling(max(1, len(history) // 20), min_periods=1).mean()
        above.plot(history.iteration, history.loss, color=FAINT, linewidth=0.8)
        above.plot(history.iteration, smooth, color=tint, linewidth=1.4)
        above.set_ylim(0, 1.05 * float(losses.quantile(0.99)))
        above.set_title(f"step {step}", color=MUTED, pad=3)
        judged = history.dropna(subset=["val_kendall_tau"])
        kept = judged[judged.kept]
        below.plot(
            judged.iteration,
            judged.val_kendall_tau,
            color=tint,
            marker="o",
            markersize=3,
            clip_on=False,
        )
        below.plot(
            kept.iteration,
            kept.val_kendall_tau,
            "o",
            markersize=8,
            color=tint,
            fillstyle="none",
            markeredgewidth=1.2,
            clip_on=False,
        )
        below.set_ylim(float(taus.min()) - room, float(taus.max()) + room)
        last = int(history.iteration.max())
        for ax in (above, below):
            ax.set_xlim(0, last)
            ax.set_xticks([0, last])
            ax.yaxis.set_major_locator(MaxNLocator(4))
            ax.tick_params(labelleft=column == 0, length=0)
        above.tick_params(labelbottom=False)
        below.get_xticklabels()[0].set_horizontalalignment("left")
        below.get_xticklabels()[1].set_horizontalalignment("right")
        if column == 0:
            above.set_ylabel("loss")
            below.set_ylabel("validation τ")
    save(figure, path)


def _band(
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
    ax.xaxis.set_major_locator(MaxNLocator(x))
    ax.yaxis.set_major_locator(MaxNLocator(x + 1))


def _dots(ax: Axes, values: np.ndarray, y: np.ndarray, tint: str) -> np.ndarray:
    """Mean of each column of (P, K) at height ``y`` (K,) with its interval; returns the means."""
    mean, low, high = mean_interval(values)
    ax.hlines(y, low, high, color=tint, linewidth=2.2, alpha=0.55)
    ax.plot(mean, y, "o", color=tint, markersize=5)
    return mean


@styled
def stages(table: pd.DataFrame, path: Path) -> None:
    """What each stage took: job time, memory and TFLOPs, each number beside its bar.

    Args:
        table: stage, jobs, seconds, memory_gb, tflops (NaN where unknown), a row per stage.
        path: PNG or SVG to write.
    """
    height = 0.95 + 0.22 * len(table)
    figure = Figure(figsize=(WIDTH, height))
    head(figure, "What the run took", "Jobs of a stage together; memory of its largest job")
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(
        left=0.2, right=0.92, top=1 - 0.78 / height, bottom=0.08 / height, wspace=0.55
    )
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("seconds", "time of jobs", clock),
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
