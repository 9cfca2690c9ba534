"""What each kind of look at a candidate tells, for its price."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ttsnap.drawing.style import WIDTH, band, colour, head, save, styled
from ttsnap.schedule import DRAFT, CostModel

SERIES = {
    "ttsp": "checks, untouched reward",
    "ttsnap": "checks, noise-aware",
    "ttsp@preview": "checks of previews, untouched reward",
    "ttsnap@preview": "checks of previews, noise-aware",
    "draft": "drafts",
}
"""What is drawn, by the strategy whose colour it has."""


def priced_looks(evaluations: Mapping[str, pd.DataFrame], costs: CostModel) -> pd.DataFrame:
    """Kendall τ of looks with what one candidate pays for each.

    Args:
        evaluations: by the suffix of their look, ``@preview`` of previews: step, kind (base,
            finetuned, draft), metric, mean, low, high.
        costs: with the prices of previews and drafts, where there are any.

    Returns:
        Rows of series, step, price in evaluations, mean, low, high; by series and price.
    """
    rows = []
    for suffix, found in evaluations.items():
        # Where candidates are looked at in two ways, the usual one is by decodes.
        look = costs.verify if len(evaluations) > 1 and not suffix else costs.check
        tau = found[(found.metric == "kendall_tau") & (found.step < costs.steps - 1)]
        for kind, series in (("base", "ttsp"), ("finetuned", "ttsnap")):
            some = tau[tau.kind == kind]
            price = some.step + 1 + look / costs.denoise
            rows.append(some.assign(series=series + suffix, price=price))
        some = tau[tau.kind == "draft"]
        if len(some):
            rows.append(some.assign(series="draft", price=costs.look(DRAFT) / costs.denoise))
    table = pd.concat(rows)[["series", "step", "price", "mean", "low", "high"]]
    return table.sort_values(["series", "price"], ignore_index=True)


@styled
def looks(
    table: pd.DataFrame, path: Path, *, whole: float, names: Mapping[str, str] = SERIES
) -> None:
    """Kendall τ against price, a line for each kind of look.

    Args:
        table: of :func:`priced_looks`.
        path: PNG or SVG to write, both without a suffix.
        whole: price of a whole image, in evaluations.
        names: what the series are called.
    """
    figure = Figure(figsize=(WIDTH, 3.9))
    head(
        figure,
        "Where information is cheap",
        "Kendall τ between what a look says of candidates and the reward of their final images, "
        "against\nwhat one candidate pays for it; mean over test prompts with 95 % interval",
    )
    ax = figure.subplots()
    figure.subplots_adjust(left=0.075, right=0.98, top=0.82, bottom=0.12)
    for series, name in names.items():
        rows = table[table.series == series]
        if len(rows):
            band(ax, rows.price, rows, colour(series), name=name)
        if len(rows) == 1:
            ax.vlines(rows.price, rows.low, rows.high, color=colour(series), linewidth=1)
    ax.legend(loc="upper left", frameon=False, labelcolor="linecolor", fontsize=8.5)
    ax.set_xlabel(
        "price of the look: evaluations with guidance, decode and score included; "
        f"a whole image costs {whole:.3g}"
    )
    ax.set_ylabel("Kendall τ")
    ax.set_xlim(0, whole)
    save(figure, path)
