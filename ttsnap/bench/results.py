"""A row for each search, and means with intervals in a table that a paper can take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ttsnap.bench.readers import BENCHMARKS
from ttsnap.bench.settings import JUDGES, Bench, folders, read_prompts
from ttsnap.drawing.style import REFERENCE
from ttsnap.drawing.words import label, scored
from ttsnap.searching.output import read_trace
from ttsnap.stats import mean_interval

COLUMNS = ("own", "reward", "held_out")


def collect(out: Path, bench: Bench) -> pd.DataFrame:
    """A row for each search: method, budget, unit, prompt_id, category, the scores, what it took.

    Scores are ``reward``, of the search itself, and ``own`` and ``held_out``, NaN where there is no
    such judge or it gave none. Prompts that could not be scored have no row.
    """
    judged: dict[str, dict[Any, float]] = {name: {} for name in JUDGES}
    for name in bench.judges:
        for file in sorted((out / "scores" / name).glob("block_*.parquet")):
            table = pd.read_parquet(file)
            keys = zip(table.method, table.budget, table.prompt_id, strict=True)
            judged[name] |= dict(zip(keys, table.score, strict=True))
    rows = []
    for method, budget, prompt, folder in folders(
        out, bench.methods, bench.budgets, read_prompts(out)
    ):
        trace = read_trace(folder)
        if trace[-1]["event"] == "refused":
            continue
        first, last = trace[0], trace[-1]
        key = method, budget, prompt["id"]
        rows.append(
            {
                "method": method,
                "budget": first["budget"],
                "unit": first["unit"],
                "prompt_id": prompt["id"],
                "category": prompt["category"],
                "reward": last["score"],
                **{name: judged[name].get(key, np.nan) for name in JUDGES},
                "n": sum(event["event"] == "start" for event in trace),
                "spent": last["spent"],
                "nfe": last["nfe"],
                "seconds": last["seconds"],
            }
        )
    return pd.DataFrame(rows)


def weighted(rows: pd.DataFrame, column: str, by_category: bool) -> pd.Series:
    """Values of a column whose mean is that over prompts, or over categories."""
    values = rows.set_index("prompt_id")[column]
    if not by_category:
        return values
    sizes = rows.groupby("category").prompt_id.transform("size").to_numpy()
    return values * len(rows) / rows.category.nunique() / sizes


def summed(results: pd.DataFrame, bench: Bench) -> list[dict[str, Any]]:
    """A row for each budget and method, best-of-N first: means with their 95 % intervals.

    ``own``, ``reward`` and ``held_out`` are (mean, low, high), or None without any score; ``gain``
    is that of the benchmark's judge, or of the reward where there is none, over best-of-N on the
    same prompts.
    """
    measure = bench.measure
    by_category = BENCHMARKS[bench.name].by_category
    rows = []
    for (unit, budget), some in results.groupby(["unit", "budget"], sort=True):
        methods = {str(name): of for name, of in some.groupby("method")}
        base = methods.get(REFERENCE)
        for name in sorted(methods, key=lambda one: (one != REFERENCE, bench.methods.index(one))):
            of = methods[name]
            gain = None
            if base is not None and name != REFERENCE:
                pairs = of.merge(base[["prompt_id", measure]], on="prompt_id", suffixes=("", "_0"))
                pairs[measure] -= pairs[f"{measure}_0"]
                gain = interval(pairs, measure, by_category)
            rows.append(
                {
                    "budget": f"{budget:g} {unit}",
                    "method": name,
                    "prompts": len(of),
                    "n": float(of.n.median()),
                    **{
                        column: interval(of, column, by_category and column == "own")
                        for column in COLUMNS
                    },
                    "gain": gain,
                    "spent": float(of.spent.mean()),
                    "unit": str(unit),
                    "nfe": float(of.nfe.mean()),
                    "seconds": float(of.seconds.mean()),
                }
            )
    return rows


def interval(
    rows: pd.DataFrame, column: str, by_category: bool = False
) -> tuple[float, float, float] | None:
    """Mean of a column with its 95 % interval; None where no prompt has a value."""
    known = rows.dropna(subset=[column])
    if known.empty:
        return None
    mean, low, high = mean_interval(weighted(known, column, by_category).to_numpy())
    return float(mean), float(low), float(high)


def by_category(results: pd.DataFrame, bench: Bench) -> list[dict[str, Any]]:
    """A row for each budget and method: means of ``own``, else of ``reward``, by category."""
    measure = bench.measure
    rows = []
    for (unit, budget), some in results.groupby(["unit", "budget"], sort=True):
        for name in bench.methods:
            of = some[some.method == name]
            if of.empty:
                continue
            means = {one: interval(part, measure) for one, part in of.groupby("category")}
            rows.append({"budget": f"{budget:g} {unit}", "method": name, "means": means})
    return rows


def headings(bench: Bench) -> dict[str, str]:
    """What the columns of scores are called, of those that there are."""
    names = {"own": BENCHMARKS[bench.name].title, "reward": bench.reward}
    if "held_out" in bench.judges:
        names["held_out"] = f"{bench.judges['held_out'].name} (held out)"
    return {
        column: names[column] for column in COLUMNS if column == "reward" or column in bench.judges
    }


def written(found: tuple[float, float, float] | None, largest: float, sign: str = "-") -> str:
    """A mean with its interval, as ``0.512 [0.471, 0.553]``."""
    if found is None:
        return ""
    mean, low, high = found
    words = f"{scored(mean, largest, sign)} [{scored(low, largest, sign)}, "
    return f"{words}{scored(high, largest, sign)}]"


def markdown(results: pd.DataFrame, bench: Bench) -> str:
    """The results as two tables in Markdown, with a line that says what they are."""
    return "".join(_markdown(results, bench))


def _markdown(results: pd.DataFrame, bench: Bench) -> Iterator[str]:
    columns = headings(bench)
    largest = {column: float(results[column].abs().max()) for column in columns}
    measure = bench.measure
    benchmark = BENCHMARKS[bench.name]
    yield (
        f"{benchmark.title}, {results.prompt_id.nunique()} prompts, {bench.model}, searched by "
        f"{bench.reward}. Means with 95 % bootstrap intervals over prompts. "
        f"{benchmark.title}: {benchmark.judged}. Gain: of {columns[measure]} over best-of-N on the "
        "same prompts.\n\n"
    )
    scores = list(columns.values())
    heads = ["budget", "method", "N", *scores, "gain", "spent", "seconds"]
    yield _line(heads) + _line(["---", "---", *["---:"] * (len(heads) - 2)])
    for row in summed(results, bench):
        yield _line(
            [
                row["budget"],
                label(row["method"]),
                f"{row['n']:.0f}",
                *(written(row[column], largest[column]) for column in columns),
                written(row["gain"], largest[measure], "+"),
                f"{row['spent']:.3g}",
                f"{row['seconds']:.3g}",
            ]
        )
    categories = sorted(results.category.unique())
    yield f"\n{columns[measure]} by category:\n\n"
    yield _line(["budget", "method", *categories])
    yield _line(["---", "---", *["---:"] * len(categories)])
    for row in by_category(results, bench):
        cells = [written(row["means"].get(one), largest[measure]) for one in categories]
        yield _line([row["budget"], label(row["method"]), *cells])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |\n"
