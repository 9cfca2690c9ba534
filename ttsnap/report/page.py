"""The page of a run, to be sent to others: one file, of what tables, figures and searches say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from ttsnap.drawing.style import REFERENCE
from ttsnap.drawing.words import label, scored, signed
from ttsnap.prompts import folder_name
from ttsnap.report import GALLERY
from ttsnap.report.figures import ranked_methods
from ttsnap.report.inline import palette, picture, svg
from ttsnap.schedule import Schedule, split_look
from ttsnap.searching.methods import METHODS
from ttsnap.searching.output import read_trace

SIDES = {"best": 400, "sheet": 1100, "grid": 1440}
"""Pixels across of pictures on the page."""
DETAILS = {
    "live": "Every method at every budget, and the same prompts compared with best-of-N",
    "oracle": "Share of captions that hold, by the judge",
    "held_out": "Score by another reward, which no search has used",
    "compute_reward": "Reward of every method for the compute it spent",
    "compute_oracle": "Captions that hold, for the compute spent",
    "compute_held_out": "Held-out reward, for the compute spent",
    "compute_diversity": "Diversity of finished pictures, for the compute spent",
    "looks": "What each kind of look at a candidate tells, for its price",
    "omega": "What pruning is worth against best-of-N",
    "schedules": "The schedules chosen over budgets",
    "training": "Finetuning of the noise-aware reward, step by step",
    "training@preview": "The same on previews",
    "stages": "What each stage of the run took",
}
"""Figures that are folded away, if the run has them: name, and what each shows."""


def page(run: Path, settings: Mapping[str, Any], commit: str | None = None) -> str:
    """The HTML of a finished run; what the run lacks, such as a judge, has no place on it.

    Args:
        run: its folder.
        settings: of the run, JSON types.
        commit: of the project; None where nothing tells.
    """
    results = pd.read_parquet(run / "search/results.parquet")
    search = settings["search"]
    budget, unit = search["budgets"][-1], str(results.unit.iloc[0])
    shown = compared(search["methods"])
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    compute = _share_of_compute(run / f"simulation/{search['reward']}/omega.csv")
    receipt = json.loads((run / "model.json").read_text(encoding="utf-8"))

    def figure(name: str, words: str) -> Markup | None:
        path = run / f"report/{name}.svg"
        return svg(path, words) if path.is_file() else None

    details = {name: drawn for name, words in DETAILS.items() if (drawn := figure(name, words))}
    return filled(
        Path(__file__).with_name("page.html"),
        settings=settings,
        reward=search["reward"],
        budget=f"{budget:g} {unit}",
        reference=label(REFERENCE) if REFERENCE in shown else None,
        found=label(shown[-1]),
        headline=headline_words(summary["live"], results, shown, budget),
        compute=compute,
        gallery=_gallery(run / "search", results, shown, budget),
        judged=bool(results.oracle.notna().any()),
        rows=_rows(results, summary["live"]),
        by_compute=figure("reward_by_compute", "Mean reward against compute"),
        by_seconds=figure("reward_by_seconds", "Mean reward against seconds"),
        simulated=figure("reward_vs_budget", "Expected reward for the compute spent"),
        costs=figure("costs", f"What {budget:g} {unit} buy"),
        paid=_paid(run, settings, results, shown, budget),
        plan=_plan(run / "search", shown[-1], budget, results),
        rank=figure("rank_consistency", "How well early images foretell the final ranking"),
        gains=summary["rewards"].get(search["reward"], {}).get("tau_gain", {}),
        grids=[
            picture(one, SIDES["grid"]) for one in sorted(run.glob("report/trajectories_*.png"))
        ],
        details=[(DETAILS[name], drawn) for name, drawn in details.items()],
        settings_text=yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True),
        versions=receipt["versions"],
        commit=commit,
    )


def filled(template: Path, **values: Any) -> str:
    """A template that extends ``base.html`` with its values, and the looks that all pages share."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template.name).render(
        **values,
        signed=signed,
        style=Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8")),
        palette=Markup("{{palette}}"),
    )
    return text.replace("{{palette}}", palette(text), 1)


def compared(methods: list[str]) -> list[str]:
    """Best-of-N if it ran, and the search beside it: the last that prunes, else the last."""
    others = [name for name in methods if name != REFERENCE]
    pruning = [name for name in others if METHODS[split_look(name)[0]].prunes]
    found = [*others, *pruning][-1:]
    return [*[name for name in methods if name == REFERENCE], *found]


def headline_words(
    live: list[dict[str, Any]], results: pd.DataFrame, shown: list[str], budget: float
) -> dict[str, Any]:
    """What came out, in words: ``title``, and ``facts`` of a number, its interval and a sentence.

    Args:
        live: of the run's summary.
        results: table of all searches.
        shown: methods compared, best-of-N first.
        budget: in the unit of ``results``.
    """
    found = label(shown[-1])
    means = results[results.budget == budget].groupby("method")
    reward = means.reward.mean()
    rows = [row for row in live if row["method"] == shown[-1] and row["budget"] == budget]
    if not rows:
        return {
            "title": f"What {found} finds",
            "facts": [(f"{reward[shown[-1]]:.4g}", "", "mean reward of the pictures found")],
        }
    (row,) = rows
    gain = row["reward"]
    clear = gain["low"] > 0 or gain["high"] < 0
    how = "better" if gain["mean"] > 0 else "worse"
    title = f"{found} finds {how} pictures than best-of-N at the same compute"
    if not clear:
        title = f"{found} and best-of-N find pictures alike at the same compute"
    facts = [
        (
            signed(gain["mean"], 3),
            _between(gain),
            f"reward gained on the same {row['prompts']} test prompts: from "
            f"{reward[REFERENCE]:.4g} to {reward[shown[-1]]:.4g}",
        )
    ]
    if "oracle" in row:
        before, after = (100 * means.oracle.mean()[name] for name in (REFERENCE, shown[-1]))
        points = {end: 100 * value for end, value in row["oracle"].items()}
        sure = "" if points["low"] > 0 or points["high"] < 0 else ", which may be chance"
        facts.append(
            (
                f"{points['mean']:+.0f} points".replace("-", "−"),
                _between(points),
                f"captions that hold, says a judge no search has seen: from {before:.0f} to "
                f"{after:.0f} of 100{sure}",
            )
        )
    seconds = means.seconds.mean()
    facts.append(
        (
            f"{seconds[shown[-1]]:.3g} s",
            "",
            f"a search by the clock, with best-of-N {seconds[REFERENCE]:.3g} s",
        )
    )
    return {"title": title, "facts": facts}


def _between(found: Mapping[str, float]) -> str:
    return f"{signed(found['low'], 3)} to {signed(found['high'], 3)}"


def _share_of_compute(path: Path) -> dict[str, float] | None:
    """Compute for the reward of best-of-N, percent of what that needs, of the best plan if any."""
    if not path.is_file():
        return None
    table = pd.read_csv(path).set_index("strategy")
    name = "best" if "best" in table.index else "ttsnap"
    row = table.loc[[name]].iloc[0]
    column = "compute_for_same_reward"
    ends = {"mean": column, "low": f"{column}_low", "high": f"{column}_high"}
    found = {end: 100 * float(row[where]) for end, where in ends.items()}
    return None if any(pd.isna(value) for value in found.values()) else found


def _gallery(
    search: Path, results: pd.DataFrame, shown: list[str], budget: float
) -> list[dict[str, Any]]:
    """By prompt its text and, by method, picture, reward, verdict and contact sheet."""
    here = results[results.budget == budget].set_index(["method", "prompt_id"])
    order = [
        one for one in here.loc[shown[0]].index if all((name, one) in here.index for name in shown)
    ]
    largest = float(results.reward.abs().max())
    cards = []
    for number, one in enumerate(order[:GALLERY]):
        rows = {name: here.loc[(name, one)] for name in shown}
        rewards = {name: scored(row.reward, largest) for name, row in rows.items()}
        best = rewards[max(rows, key=lambda name: rows[name].reward)]
        pictures = []
        for name in shown:
            folder = search / name / f"{budget:g}" / folder_name(one)
            sheet, verdict = folder / "contact.png", rows[name].oracle
            pictures.append(
                {
                    "method": label(name),
                    "id": f"sheet-{number}-{shown.index(name)}",
                    "image": picture(folder / "best.png", SIDES["best"]),
                    "reward": rewards[name],
                    "best": rewards[name] == best,
                    "verdict": None if pd.isna(verdict) else float(verdict),
                    "sheet": picture(sheet, SIDES["sheet"]) if sheet.is_file() else None,
                }
            )
        begun, _ = _trace(search / shown[0] / f"{budget:g}" / folder_name(one))
        cards.append({"prompt": begun["prompt"], "pictures": pictures})
    return cards


def _trace(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """First and last event of a search: what was asked for, and what came out."""
    events = read_trace(folder)
    return events[0], events[-1]


def _rows(results: pd.DataFrame, live: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of methods: a row for each budget and method, best-of-N first."""
    largest = float(results.reward.abs().max())
    gains = {(row["budget"], row["method"]): row["reward"] for row in live}
    rows = []
    for budget in sorted(results.budget.unique()):
        for name in ranked_methods(results):
            some = results[(results.budget == budget) & (results.method == name)]
            gain = gains.get((budget, name))
            rows.append(
                {
                    "budget": f"{budget:g}",
                    "method": label(name),
                    "n": f"{some.n.median():.0f}",
                    "reward": scored(some.reward.mean(), largest),
                    "gain": gain and f"{signed(gain['mean'], 3)} [{_between(gain)}]",
                    "sure": gain and (gain["low"] > 0 or gain["high"] < 0),
                    "holds": f"{100 * some.oracle.mean():.0f} %"
                    if some.oracle.notna().any()
                    else "",
                    "seconds": f"{some.seconds.mean():.3g}",
                }
            )
    return rows


def _paid(
    run: Path, settings: Mapping[str, Any], results: pd.DataFrame, shown: list[str], budget: float
) -> list[dict[str, Any]]:
    """By method what a search of the gallery paid for denoising, decodes and scores, on average."""
    search = settings["search"]
    prices = json.loads((run / f"rewards/{search['reward']}/cost.json").read_text())
    ids = results[results.method == shown[0]].prompt_id.unique()[:GALLERY]
    bars = []
    for name in shown:
        folders = (run / "search" / name / f"{budget:g}" / folder_name(one) for one in ids)
        ends = pd.DataFrame([_trace(one)[1] for one in folders if one.is_dir()])
        nfe, scores, spent = (float(ends[key].mean()) for key in ("nfe", "scored", "spent"))
        parts = {
            "denoising": (nfe, nfe * prices["denoise"], "evaluations"),
            "scoring": (scores, scores * prices["score"], "scores"),
        }
        # What is left: full decodes at one price, previews at another.
        left = max(0.0, spent - sum(cost for _, cost, _ in parts.values()))
        parts["decoding"] = (float(ends.decodes.mean()), left, "decodes")
        bars.append(
            {
                "method": label(name),
                "spent": f"{spent:.3g} {prices['unit']}",
                "parts": [
                    (part, f"{count:.3g} {things}", 100 * cost / spent)
                    for part, (count, cost, things) in parts.items()
                ],
            }
        )
    return bars


def _plan(search: Path, method: str, budget: float, results: pd.DataFrame) -> str | None:
    """In words which candidates a schedule keeps; None of a method without one."""
    rows = results[(results.method == method) & (results.budget == budget)]
    folder = search / method / f"{budget:g}" / folder_name(rows.prompt_id.iloc[0])
    checks = Schedule.parse(_trace(folder)[0]["options"].get("schedule", ""))
    if not checks.checks:
        return None
    alive = checks.counts(int(rows.n.iloc[0]))
    kept = [
        f"{count} {'goes' if count == 1 else 'go'} on after step {check.step}"
        for check, count in zip(checks.checks, alive[1:], strict=True)
    ]
    return f"{alive[0]} candidates start, {', '.join(kept)}; and no more is computed for the others"
