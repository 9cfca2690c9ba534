"""The charts of the report; each takes tidy tables, draws one figure and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

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
    signed,
    styled,
)
from ttsnap.schedule import CostModel, Schedule
from ttsnap.stats import mean_interval

REFERENCE = "best-of-n"
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
def reward_vs_budget(curves: pd.DataFrame, omega: pd.DataFrame, path: Path, *, reward: str) -> None:
    """Expected final reward against budget, with ω at the end of each curve.

    Args:
        curves: strategy, budget, n, mean, low, high; NaN means are left out.
        omega: strategy, omega, omega_low, omega_high.
        path: PNG or SVG to write.
        reward: name of the reward, for the axis.
    """
    shown = curves.dropna(subset=["mean"])
    strategies = list(shown.strategy.unique())
    figure = Figure(figsize=(WIDTH, 3.7))
    head(
        figure,
        "Reward for the compute spent",
        "Expected reward of the best image found, "
        "simulated on the test prompts; bands: 95 % interval over prompts.\n"
        "ω: gain over best-of-N, as a share of what best-of-N gains over its smallest budget",
    )
    ax = figure.subplots()
    figure.subplots_adjust(left=0.085, right=0.77, top=0.79, bottom=0.125)
    gains = omega.set_index("strategy")
    ends = []
    for name in strategies:
        rows = shown[shown.strategy == name].sort_values("budget")
        tint = colour(name, strategies)
        _band(ax, rows.budget, rows, tint, marker="o" if len(rows) < 25 else None)
        words = label(name)
        if name != REFERENCE:
            gain = gains.loc[name]
            low, high = f"{gain.omega_low:+.0f}", f"{gain.omega_high:+.0f}"
            words += f"  ω {gain.omega:+.0f} %\n[{low}, {high}]".replace("-", "−")
        ends.append((float(rows["mean"].iloc[-1]), words, tint))
    ax.set_xlabel("budget per prompt, TFLOPs")
    ax.set_ylabel(f"reward ({reward})")
    ax.margins(x=0.02)
    end_labels(ax, float(shown.budget.max()), ends)
    save(figure, path)


@styled
def live(results: pd.DataFrame, path: Path, *, reward: str) -> None:
    """Reward of the live searches at equal compute, and the paired difference to best-of-N.

    Args:
        results: method, budget, prompt_id, reward, spent_tflops, n.
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
        results: method, budget, prompt_id, oracle, n.
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


def _comparison(
    results: pd.DataFrame, column: str, path: Path, axis: str, title: str, subtitle: str
) -> None:
    """Means by method and budget at the left, paired differences to best-of-N at the right."""
    methods = sorted(results.method.unique(), key=lambda name: (name != REFERENCE, name))
    budgets = sorted(results.budget.unique())
    tables = {
        name: rows.pivot(index="prompt_id", columns="budget", values=column)[budgets]
        for name, rows in results.groupby("method")
    }
    figure = Figure(figsize=(WIDTH, max(2.7, 1.3 + 0.36 * len(budgets) * len(methods))))
    head(figure, title, subtitle)
    height = figure.get_figheight()
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(
        left=0.12, right=0.98, top=1 - 0.82 / height, bottom=0.46 / height, wspace=0.09
    )
    apart = 0.8 / len(methods)
    for order, name in enumerate(methods):
        y = np.arange(len(budgets)) + (order - (len(methods) - 1) / 2) * apart
        tint = colour(name, methods)
        _dots(left, tables[name].to_numpy(), y, tint)
        n = results[results.method == name].groupby("budget").n.median()
        for place, budget in zip(y, budgets, strict=True):
            mean = float(tables[name][budget].mean())
            left.annotate(
                f"{label(name)}, N = {n[budget]:.0f}",
                (mean, place),
                xytext=(0, 4.5),
                textcoords="offset points",
                size=7.5,
                color=tint,
                ha="center",
                path_effects=HALO,
            )
        if name == REFERENCE:
            continue
        paired = (tables[name] - tables[REFERENCE]).dropna()
        for mean, place in zip(_dots(right, paired.to_numpy(), y, tint), y, strict=True):
            right.annotate(
                f"{label(name)} {signed(mean)}",
                (mean, place),
                xytext=(0, 4.5),
                textcoords="offset points",
                size=7.5,
                color=tint,
                ha="center",
                path_effects=HALO,
            )
    right.axvline(0, color=colour(REFERENCE), linewidth=1.2)
    left.set_yticks(range(len(budgets)), [f"{budget:g}\nTFLOPs" for budget in budgets])
    left.set_ylim(len(budgets) - 0.4, -0.6)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.22)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    left.set_xlabel(axis)
    right.set_xlabel("difference to best-of-N")
    save(figure, path)


@styled
def costs(prices: CostModel, schedule: Schedule, budget: float, path: Path) -> None:
    """What a budget buys: candidates alive by step, whose area is the compute, and the prices.

    Args:
        prices: of evaluation, decode and reward, in TFLOPs.
        schedule: of TTSnap.
        budget: TFLOPs.
        path: PNG or SVG to write.
    """
    figure = Figure(figsize=(WIDTH, 3.1))
    head(
        figure,
        f"What {budget:g} TFLOPs buy",
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
    bars.set_title("TFLOPs for one candidate", color=MUTED)
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


def _dots(ax: Axes, values: np.ndarray, y: np.ndarray, tint: str) -> np.ndarray:
    """Mean of each column of (P, K) at height ``y`` (K,) with its interval; returns the means."""
    mean, low, high = mean_interval(values)
    ax.hlines(y, low, high, color=tint, linewidth=2.2, alpha=0.55)
    ax.plot(mean, y, "o", color=tint, markersize=5)
    return mean
