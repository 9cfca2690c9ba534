"""The page of a benchmark: one file, in the looks of a run's page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

import ttsnap
from ttsnap.bench.readers import BENCHMARKS
from ttsnap.bench.results import by_category, headings, summed, written
from ttsnap.bench.settings import Bench, folders, read_prompts
from ttsnap.drawing.words import label, scored
from ttsnap.report import GALLERY, figures
from ttsnap.report.inline import picture, svg
from ttsnap.report.page import SIDES, filled


def page(out: Path, bench: Bench, results: pd.DataFrame) -> str:
    """The HTML of a benchmark.

    Args:
        out: its folder.
        bench: what it consists of.
        results: of :func:`ttsnap.bench.results.collect`.
    """
    columns = headings(bench)
    largest = {column: float(results[column].abs().max()) for column in columns}
    measure = bench.measure
    rows = [
        row
        | {column: written(row[column], largest[column]) for column in columns}
        | {
            "method": label(row["method"]),
            "sure": row["gain"] is not None and row["gain"][1] * row["gain"][2] > 0,
            "gain": written(row["gain"], largest[measure], "+"),
        }
        for row in summed(results, bench)
    ]
    categories = [
        row
        | {"method": label(row["method"])}
        | {
            "cells": [
                written(row["means"].get(one), largest[measure])
                for one in sorted(results.category.unique())
            ]
        }
        for row in by_category(results, bench)
    ]
    return filled(
        Path(__file__).with_name("page.html"),
        bench=bench,
        benchmark=BENCHMARKS[bench.name],
        prompts=results.prompt_id.nunique(),
        judged=measure == "own",
        held_out=bench.judges["held_out"].name if "held_out" in bench.judges else None,
        columns=columns,
        measured=columns[measure],
        rows=rows,
        categories=categories,
        names=sorted(results.category.unique()),
        largest=f"{results.budget.iloc[-1]:g} {results.unit.iloc[-1]}",
        charts=list(_charts(results, bench, measure, columns[measure])),
        gallery=_gallery(out, bench, results),
        version=ttsnap.__version__,
    )


def _charts(
    results: pd.DataFrame, bench: Bench, measure: str, name: str
) -> list[tuple[str, list[Markup]]]:
    """By unit of budgets: means against compute and seconds, and each method by itself."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (unit, some) in enumerate(results.groupby("unit")):
            # The figures of a run call what is compared a reward.
            shown = some.drop(columns="reward").rename(columns={measure: "reward"})
            if measure == "reward":
                shown = some
            best = figures.ranked_methods(shown)[:2]
            drawn = []
            for column, words in {"spent": "what was spent", "seconds": "seconds"}.items():
                path = Path(folder, f"{column}_{number}.svg")
                figures.reward_by(shown, column, path, title=name, methods=best)
                drawn.append(svg(path, f"{name} against {words}"))
            path = Path(folder, f"methods_{number}.svg")
            figures.against_compute(shown, "reward", path, axis=name)
            drawn.append(svg(path, f"{name} of every method against what was spent"))
            found.append((str(unit), drawn))
    return found


def _gallery(out: Path, bench: Bench, results: pd.DataFrame) -> list[dict[str, Any]]:
    """By prompt its text and what each method found at the largest budget."""
    budget, largest = bench.budgets[-1], float(results.reward.abs().max())
    cards: dict[str, dict[str, Any]] = {}
    known = results.set_index(["method", "prompt_id"])
    prompts = read_prompts(out)
    apart = prompts[:: max(1, len(prompts) // GALLERY)][:GALLERY]
    for method, _, prompt, folder in folders(out, bench.methods, [budget], apart):
        if (method, prompt["id"]) not in known.index or not (folder / "best.png").exists():
            continue
        of = known.loc[[(method, prompt["id"])]].sort_values("spent").iloc[-1]
        card = cards.setdefault(prompt["id"], {"prompt": prompt["prompt"], "pictures": []})
        card["pictures"].append(
            {
                "method": label(method),
                "image": picture(folder / "best.png", SIDES["best"] // 2),
                "reward": scored(of.reward, largest),
                "own": None if pd.isna(of.own) else f"{of.own:.2g}",
            }
        )
    return list(cards.values())
