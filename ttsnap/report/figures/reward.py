"""How well the noise-aware reward ranks, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ttsnap.drawing.style import (
    FAINT,
    MUTED,
    WIDTH,
    band,
    colour,
    head,
    round_ticks,
    save,
    styled,
)
from ttsnap.drawing.words import label
from ttsnap.schedule import Schedule


@styled
def rank_consistency(
    evaluations: Mapping[str, pd.DataFrame], path: Path, *, schedule: Schedule
) -> None:
    """Kendall τ with the final reward by step, base against finetuned, and the gain below.

    Args:
        evaluations: by the suffix of their look, ``@preview`` of previews: step, kind (base,
            finetuned, difference), metric, mean, low, high.
        path: PNG or SVG to write, both without a suffix.
        schedule: its checks are marked.
    """
    # Final images are decoded, however estimates are seen.
    tau = pd.concat(
        [
            found[found.step < found.step.max()].assign(kind=found.kind + suffix)
            if suffix
            else found
            for suffix, found in evaluations.items()
        ]
    )
    tau = tau[tau.metric == "kendall_tau"].sort_values("step")
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
    for suffix in evaluations:
        for kind in (f"base{suffix}", f"finetuned{suffix}"):
            rows = tau[tau.kind == kind]
            band(upper, rows.step, rows, colour(kind), name=label(kind))
    # Curves of decodes end at the upper right, those of previews at the lower.
    where = {"loc": "center right", "bbox_to_anchor": (1, 0.52)}
    if len(evaluations) == 1:
        where = {"loc": "lower right"}
    upper.legend(**where, frameon=False, labelcolor="linecolor", fontsize=9, reverse=True)
    lower.axhline(0, color=MUTED, linewidth=0.8)
    for suffix in evaluations:
        gain = tau[tau.kind == f"difference{suffix}"]
        band(lower, gain.step, gain, colour(f"difference{suffix}"))
    for ax in (upper, lower):
        for check in schedule.checks:
            ax.axvline(check.step, color=MUTED, linewidth=0.8, dashes=(3, 3))
    upper.set_ylabel("Kendall τ")
    lower.set_ylabel("gain in τ")
    lower.set_xlabel("step index")
    lower.xaxis.set_major_locator(round_ticks(8, integer=True))
    lower.margins(x=0.02)
    save(figure, path)


@styled
def training(histories: Mapping[int, pd.DataFrame], path: Path, *, look: str = "") -> None:
    """Loss, and change of the validation τ, in noise-aware finetuning; a column for each step.

    Args:
        histories: step index -> iteration, loss, val_kendall_tau (NaN between validations), kept
            (true where the weights were taken).
        path: PNG or SVG to write, both without a suffix.
        look: ``@preview`` where the students see previews.
    """
    steps = sorted(histories, reverse=True)
    bands = -(-len(steps) // 8)
    columns = -(-len(steps) // bands)
    left, top, tall, band_height = 0.7, 0.98, 0.85, 2.55  # inches
    wide = (WIDTH - left - 0.1) / columns
    height = top + bands * band_height - 0.25
    figure = Figure(figsize=(WIDTH, height))
    head(
        figure,
        f"Noise-aware finetuning{' on previews' if look else ''}, from clean steps to noisy ones",
        "Above: training loss. Below: change of Kendall τ on validation prompts since the start, "
        "whose τ\nstands at the top; ringed: the weights that were kept",
    )
    smoothed = {
        step: history.loss.rolling(max(1, len(history) // 20), min_periods=1).mean()
        for step, history in histories.items()
    }
    losses = pd.concat(list(smoothed.values()))
    gains = {step: _gain(history) for step, history in histories.items()}
    lowest, highest = (
        getattr(pd.concat([gain.gain for gain in gains.values()]), end)() for end in ("min", "max")
    )
    room = 0.15 * max(float(highest - lowest), 0.01)
    tint = colour(f"finetuned{look}")
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
        above.plot(history.iteration, history.loss, color=FAINT, linewidth=0.8)
        above.plot(history.iteration, smoothed[step], color=tint, linewidth=1.4)
        above.set_yscale("log")
        above.set_ylim(0.8 * float(losses.min()), 1.25 * float(losses.max()))
        above.yaxis.set_minor_locator(NullLocator())
        above.yaxis.set_major_formatter("{x:g}")
        judged = gains[step]
        kept = judged[judged.kept]
        above.set_title(
            f"step {step}, τ {judged.val_kendall_tau.iloc[0]:.2f}", color=MUTED, pad=3, size=7.5
        )
        below.axhline(0, color=MUTED, linewidth=0.8)
        below.plot(judged.iteration, judged.gain, color=tint, marker="o", markersize=3)
        below.plot(
            kept.iteration,
            kept.gain,
            "o",
            markersize=8,
            color=tint,
            fillstyle="none",
            markeredgewidth=1.2,
        )
        below.set_ylim(float(lowest) - room, float(highest) + room)
        below.yaxis.set_major_locator(round_ticks(4))
        last = int(history.iteration.max())
        for ax in (above, below):
            ax.set_xlim(-0.09 * last, 1.09 * last)
            ax.set_xticks([0, last])
            ax.tick_params(labelleft=column == 0, length=0)
        above.tick_params(labelbottom=False)
        below.set_xlabel("iteration", labelpad=0)
        if column == 0:
            above.set_ylabel("loss")
            below.set_ylabel("change of τ")
    save(figure, path)


def _gain(history: pd.DataFrame) -> pd.DataFrame:
    """The validations of a step, with how far τ is above that of the first."""
    judged = history.dropna(subset=["val_kendall_tau"])
    return judged.assign(gain=judged.val_kendall_tau - judged.val_kendall_tau.iloc[0])
