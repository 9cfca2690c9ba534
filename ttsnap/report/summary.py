"""The headline numbers of a run, each with its 95 % interval over test prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ttsnap.drawing.words import label, signed
from ttsnap.errors import UserError
from ttsnap.schedule import look_suffixes
from ttsnap.simulation.experiment import BEST, TTSNAP
from ttsnap.simulation.omega import BEST_OF_N
from ttsnap.simulation.source import pair
from ttsnap.stats import kendall_tau_rows, mean_interval
from ttsnap.store.tensors import RewardTensor

PAGE = "report.html"
JUDGED = {"reward": "reward", "held_out": "held-out reward", "oracle": "oracle accuracy"}


def headline(run: Path) -> dict[str, Any]:
    """Read the numbers from the tables and tensors of a finished run.

    Args:
        run: its folder.

    Returns:
        JSON types. ``rewards``: per reward ``tau_gain``, for each look the finetuned minus the base
        reward's Kendall τ, averaged over the first half of the steps; ``omega`` in percent, of the
        best plan; and ``omega_gain``, for each look TTSnap's ω less TTSp's on the same prompts.
        ``live``: per budget and method other than best-of-N the paired differences to it in
        ``reward`` and, if there is such a judge, ``held_out`` and ``oracle``, with what was spent
        on average.
        Every number is {mean, low, high}.

    Raises:
        UserError: a part of the run is missing.
    """
    results = run / "search/results.parquet"
    if not results.is_file():
        raise UserError(f"{run}: not the folder of a finished run, it lacks search/results.parquet")
    return {
        "rewards": {
            table.parent.name: _of_reward(run / "tensors", table)
            for table in sorted(run.glob("simulation/*/omega.csv"))
        },
        "live": live_differences(pd.read_parquet(results)),
    }


def tau_gain(tensors: Path) -> dict[str, float]:
    """Mean gain in Kendall τ over the first half of the steps on ``test``.

    A step without a checkpoint gains nothing and counts.
    """
    base, finetuned = (
        RewardTensor.load(tensors / f"test.{kind}.zarr") for kind in ("base", "finetuned")
    )
    last = base.steps[-1]
    early = [i for i, step in enumerate(base.steps) if step < (last + 1) / 2]
    final = base.values[:, None, :, -1]
    both = pair(base.values, finetuned.values)
    before, after = (
        np.nan_to_num(kendall_tau_rows(np.moveaxis(scores[:, :, early], 2, 1), final))
        for scores in (both.base, both.finetuned)
    )
    return _interval((after - before).mean(axis=1))


def live_differences(results: pd.DataFrame) -> list[dict[str, Any]]:
    """Paired differences to best-of-N of the same budget and prompt, the largest gain first."""
    judged = [name for name in JUDGED if results[name].notna().all()]
    rows = []
    for (budget, method), found in results.groupby(["budget", "method"]):
        if method == BEST_OF_N:
            continue
        reference = results[(results.method == BEST_OF_N) & (results.budget == budget)]
        pairs = found.merge(reference, on="prompt_id", suffixes=("", "_reference"))
        if pairs.empty:
            continue
        rows.append(
            {
                "method": method,
                "budget": budget,
                "prompts": len(pairs),
                **{
                    column: _interval((pairs[column] - pairs[f"{column}_reference"]).to_numpy())
                    for column in judged
                },
                "spent": float(pairs.spent.mean()),
                "spent_reference": float(pairs.spent_reference.mean()),
                "unit": pairs.unit.iloc[0],
            }
        )
    return sorted(rows, key=lambda row: (row["budget"], -row["reward"]["mean"]))


def page_of(run: Path) -> str | None:
    """Where the page of a run lies, if it is there."""
    return str(run / PAGE) if (run / PAGE).is_file() else None


def table(numbers: dict[str, Any], page: str | None = None) -> Group:
    """``numbers`` of :func:`headline` for the terminal, and where the page lies."""
    lines = Table(
        title="On test prompts, with 95 % intervals over prompts",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_column("95 % interval", justify="right", header_style="dim")
    for name, found in numbers["rewards"].items():
        several = len(found["tau_gain"]) > 1
        for look, gain in found["tau_gain"].items():
            seen = f", {look}s" if several else ""
            _line(lines, f"{name}{seen}: early Kendall τ gained", gain)
        for look, gain in found["omega_gain"].items():
            seen = f", {look}s" if several else ""
            _line(lines, f"{name}{seen}: ω of TTSnap less TTSp's, %", gain)
        whose = "the best plan" if several else "TTSnap"
        _line(lines, f"{name}: ω of {whose}, %", found["omega"])
    found = Group(lines, "", _live_table(numbers["live"]))
    return Group(found, "", Text(f"report: {page}", style="dim")) if page else found


def _live_table(rows: list[dict[str, Any]]) -> Table:
    """Differences to best-of-N: a row for each budget and method, a column for each judge."""
    judged = {name: title for name, title in JUDGED.items() if any(name in row for row in rows)}
    lines = Table(
        title="Live, minus best-of-N at the same compute and on the same prompts",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    lines.add_column("budget", justify="right", no_wrap=True)
    lines.add_column("method", no_wrap=True)
    for title in judged.values():
        lines.add_column(title, justify="right")
    before = None
    for row in rows:
        budget = f"{row['budget']:g} {row['unit']}"
        lines.add_row(
            budget if budget != before else "",
            label(row["method"]),
            *(_difference(row[name]) for name in judged),
        )
        before = budget
    return lines


def _difference(found: dict[str, float]) -> Text:
    """A mean, bold where its interval excludes zero, and the interval."""
    clear = found["low"] > 0 or found["high"] < 0
    return Text.assemble(
        (signed(found["mean"], 3), "bold" if clear else ""),
        (f" [{signed(found['low'], 3)}, {signed(found['high'], 3)}]", "dim"),
    )


def _line(lines: Table, what: str, found: dict[str, float]) -> None:
    clear = found["low"] > 0 or found["high"] < 0
    lines.add_row(
        what,
        signed(found["mean"], 3),
        f"[{signed(found['low'], 3)}, {signed(found['high'], 3)}]",
        style="bold" if clear else "",
    )


def _of_reward(tensors: Path, omega: Path) -> dict[str, Any]:
    """What finetuning and pruning by a reward are worth, from its tensors and table of ω."""
    table, name = pd.read_csv(omega), omega.parent.name
    looks = table[table.strategy == TTSNAP]
    best = table[table.strategy == BEST] if len(looks) > 1 else looks
    return {
        "tau_gain": {
            look: tau_gain(tensors / f"{name}{suffix}")
            for look, suffix in zip(looks["look"], look_suffixes(list(looks["look"])), strict=True)
        },
        "omega": _known(best.iloc[0], "omega"),
        "omega_gain": {row["look"]: _known(row, "omega_gain") for _, row in looks.iterrows()},
    }


def _known(row: pd.Series, figure: str) -> dict[str, float]:
    ends = {"mean": figure, "low": f"{figure}_low", "high": f"{figure}_high"}
    return {end: float(row[column]) for end, column in ends.items()}


def _interval(values: np.ndarray) -> dict[str, float]:
    mean, low, high = mean_interval(values)
    return {"mean": float(mean), "low": float(low), "high": float(high)}
