"""The commands ``ttsnap simulate`` and ``ttsnap plan``."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttsnap.errors import UserError
from ttsnap.table_cli import AsJson, print_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from ttsnap.simulation.experiment import Experiment

DRAWS, JOINT_DRAWS = 1024, 256


class Prompts(StrEnum):
    """Which prompts, by their position in the source."""

    even = "even"
    odd = "odd"
    all = "all"

    @property
    def slice(self) -> slice:
        return {"even": slice(0, None, 2), "odd": slice(1, None, 2), "all": slice(None)}[self.value]

    @property
    def others(self) -> Prompts:
        """Those that are not among these; all, where none are left."""
        return {Prompts.even: Prompts.odd, Prompts.odd: Prompts.even}.get(self, Prompts.all)


class Accounting(StrEnum):
    """How candidates are charged."""

    corrected = "corrected"
    ttsnap = "ttsnap"


Source = Annotated[
    Path,
    typer.Argument(
        help="An .npz with arrays REWARD_base and REWARD_naft (prompts, images, steps), the latter "
        "NaN or missing where nothing was finetuned; or a run's tensor store, or folder of them."
    ),
]
Budgets = Annotated[
    str, typer.Option(help="Compute per prompt: FIRST:LAST:SPACING, or a list A,B,…")
]
Denoise = Annotated[
    float | None,
    typer.Option(help="Cost of a denoiser evaluation; by default as measured in the run."),
]
Verify = Annotated[
    float | None, typer.Option(help="Cost of a decode and a score together; likewise.")
]
Draft = Annotated[
    float | None,
    typer.Option(
        help="Evaluations that a draft costs, one without guidance counting half of one with it; "
        "the .npz then has REWARD_draft (prompts, images), what is said of each one's draft."
    ),
]
Steps = Annotated[
    int | None, typer.Option(help="Denoising steps; by default those of the source.", min=2)
]
AccountingOption = Annotated[
    Accounting,
    typer.Option(help="corrected: a check at step s pays s + 1 evaluations; ttsnap: as published."),
]
Unit = Annotated[
    str | None, typer.Option(help="Unit of costs and budgets; that of the run, or TFLOPs.")
]
Rewards = Annotated[
    str | None, typer.Option(help="Names, separated by commas; by default all of the source.")
]
Joint = Annotated[
    bool, typer.Option("--joint", help="Prune and pick by all rewards together, by their ranks.")
]
Weights = Annotated[
    str | None, typer.Option(help="With --joint: add up z-scores, with these weights A,B,…")
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="NAME=OFFSET:UNIT,…: report (value - OFFSET) / UNIT, such as hps=0:0.01 for percent; "
        "by default values are reported as they are."
    ),
]
Seed = Annotated[int, typer.Option(help="Of the random subsets.", min=0)]


def simulate_command(
    source: Source,
    budgets: Budgets,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    denoise: Denoise = None,
    verify: Verify = None,
    draft: Draft = None,
    unit: Unit = None,
    steps: Steps = None,
    accounting: AccountingOption = Accounting.corrected,
    schedule: Annotated[
        str | None,
        typer.Option(help="STEP:KEEP,… such as 2:0.4,6:0.4,11:0.5; planned by default."),
    ] = None,
    choose_on: Annotated[
        Prompts | None,
        typer.Option(help="Prompts that schedules are planned on; even by default."),
    ] = None,
    report_on: Annotated[
        Prompts | None,
        typer.Option(
            help="Prompts that are reported; by default those not planned on, all with --schedule."
        ),
    ] = None,
    rewards: Rewards = None,
    joint: Joint = False,
    weights: Weights = None,
    scale: Scale = None,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Random subsets a prompt; by default so many that their error is a tenth of the "
            f"interval's half width at most, and {DRAWS} at least ({JOINT_DRAWS} with --joint).",
            min=1,
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate best-of-N, TTSp and TTSnap on reward tensors, over budgets.

    Writes **omega.csv**, **curves.csv**, **plan.json** and pictures. The schedules are planned on
    some prompts and reported on others.

    Example: `ttsnap simulate tensors.npz --denoise 9.9 --verify 1.2 --budgets 400:4000:200
    --out found`
    """
    from rich.console import Console

    from ttsnap.schedule import Schedule, budget_range
    from ttsnap.simulation.strategies import (
        enough_draws,
        given_plan,
        plan_schedules,
        simulate_parts,
    )

    if schedule is not None and choose_on is not None:
        raise UserError("--choose-on: nothing is chosen with --schedule; give one of the two")
    _require_folder(out)
    values = budget_range(budgets)
    experiment = _experiment(
        source, denoise, verify, draft, unit, steps, accounting, rewards, joint, weights, scale
    )
    if schedule is None:
        choose_on = choose_on or Prompts.even
        report_on = report_on or choose_on.others
        chosen = experiment.of(choose_on.slice)
        pool = chosen.finals[0].shape[1]
        models = [part.costs for part in experiment.parts()]
        possible = [b for b in values if all(0 < one.largest_n(b) <= pool for one in models)]
        if not possible:
            raise UserError(
                f"budgets {budgets}: none can be planned, one candidate costs "
                f"{models[0].cost(1):g} and the pool holds {pool}"
            )
        with _bar(
            "planning", len(experiment.pruning) * len(possible) * len(experiment.parts())
        ) as advance:
            planned = plan_schedules(chosen, possible, seed, observe=advance)
        chosen_by = {"prompts": choose_on.value}
    else:
        report_on = report_on or Prompts.all
        planned = given_plan(experiment.of(report_on.slice), Schedule.parse(schedule), values, seed)
        chosen_by = {"schedule": "given", "prompts": report_on.value}
    _write_plan(out / "plan.json", planned, experiment, source, chosen_by, seed)

    reported = experiment.of(report_on.slice)

    def simulated(subsets: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        strategies = 1 + len(reported.strategies)
        with _bar("simulating", strategies * len(values) * len(reported.parts())) as advance:
            found = simulate_parts(reported, planned, values, subsets, seed, observe=advance)
        return found.table, found.omega

    least = JOINT_DRAWS if joint else DRAWS
    table, omega = simulated(draws or least)
    if draws is None and (enough := enough_draws(table, least)) > least:
        table, omega = simulated(enough)
    table.to_csv(out / "curves.csv", index=False)
    omega.to_csv(out / "omega.csv", index=False)
    _draw(
        out,
        table,
        omega,
        planned | {"steps": experiment.costs.steps, "unit": experiment.costs.unit},
    )

    if as_json:
        print_json(
            {
                "folder": str(out),
                "chosen_by": chosen_by,
                "report_on": report_on.value,
                "accounting": accounting.value,
                "error": table.error.max(),
                "omega": omega.to_dict("records"),
            }
        )
        return
    console = Console()
    words = f"{report_on.value} prompts of {source.name}, {accounting.value} accounting"
    console.print(_omega_table(omega, words))
    if choose_on is not None and (choose_on is report_on or Prompts.all in (choose_on, report_on)):
        console.print(
            "Warning: plans are judged on prompts that they were chosen on, so that the gains are "
            "too high.",
            style="yellow",
            soft_wrap=True,
        )
    console.print(
        f"Monte Carlo error of a mean: {table.error.max():.2g} at most. "
        f"{out}/omega.csv, curves.csv, plan.json, *.png",
        soft_wrap=True,
        highlight=False,
    )


def plan_command(
    source: Source,
    budgets: Budgets,
    out: Annotated[Path, typer.Option(help="Plan to write, JSON.")],
    denoise: Denoise = None,
    verify: Verify = None,
    draft: Draft = None,
    unit: Unit = None,
    steps: Steps = None,
    accounting: AccountingOption = Accounting.corrected,
    choose_on: Annotated[Prompts, typer.Option(help="Prompts to plan on.")] = Prompts.all,
    rewards: Rewards = None,
    joint: Joint = False,
    weights: Weights = None,
    scale: Scale = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Plan TTSp and TTSnap on reward tensors: which schedule to run at which budget.

    `ttsnap search --plan FILE` runs it.

    Example: `ttsnap plan results/shapes/tensors/clip/val.base.zarr --budgets 0.016,0.032
    --out plan.json`
    """
    from rich.console import Console

    from ttsnap.schedule import budget_range
    from ttsnap.simulation.strategies import plan_schedules

    _require_folder(out.parent)
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder, expected a file to write")
    values = budget_range(budgets)
    experiment = _experiment(
        source, denoise, verify, draft, unit, steps, accounting, rewards, joint, weights, scale
    )
    with _bar(
        "planning", len(experiment.pruning) * len(values) * len(experiment.parts())
    ) as advance:
        planned = plan_schedules(experiment.of(choose_on.slice), values, seed, observe=advance)
    _write_plan(out, planned, experiment, source, {"prompts": choose_on.value}, seed)
    if as_json:
        print(out.read_text(encoding="utf-8"))
        return
    console = Console()
    console.print(_plan_table(planned))
    console.print(str(out), soft_wrap=True, highlight=False)


def _require_folder(path: Path) -> None:
    """Refuse a folder that cannot be made, because it or one above it is a file."""
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out: {folder} is a file, expected a folder")


def _experiment(
    source: Path,
    denoise: float | None,
    verify: float | None,
    draft: float | None,
    unit: str | None,
    steps: int | None,
    accounting: Accounting,
    rewards: str | None,
    joint: bool,
    weights: str | None,
    scale: str | None,
) -> Experiment:
    from dataclasses import replace

    from ttsnap.schedule import CostModel
    from ttsnap.simulation.experiment import Experiment
    from ttsnap.simulation.source import by_look, load_drafts, load_source, measured_costs

    if denoise is not None and not 0 < denoise < math.inf:
        raise UserError(f"--denoise {denoise:g}: expected a finite number above 0")
    if verify is not None and not 0 <= verify < math.inf:
        raise UserError(f"--verify {verify:g}: expected a finite number, 0 or above")
    if draft is not None and not 0 < draft < math.inf:
        raise UserError(f"--draft {draft:g}: expected a finite number above 0")
    if draft is not None and source.suffix != ".npz":
        raise UserError(f"--draft: only with an .npz, not {source}")
    if weights is not None and not joint:
        raise UserError("--weights: only with --joint")
    try:
        weighted = [float(part) for part in weights.split(",")] if weights else None
    except ValueError:
        raise UserError(f"--weights {weights}: expected numbers separated by commas") from None
    loaded = load_source(source, rewards.split(",") if rewards else None)
    for name, (offset, one) in _scales(scale, loaded).items():
        loaded[name] = loaded[name].scaled(offset, one)
    known, previews = by_look(loaded)
    prices = measured_costs(source, previews=bool(previews))
    measured = {name: one for name, one in prices.items() if name in known}
    if not measured and (denoise is None or verify is None):
        raise UserError(f"{source}: no measured costs beside it; give --denoise and --verify")
    total = next(iter(known.values())).base.shape[2]
    costs = next(iter(measured.values()), CostModel(0.0, 0.0, 0.0, total))
    costs = replace(costs, accounting=accounting.value, unit=unit or costs.unit, draft=draft)
    drafts = load_drafts(source, known) if draft is not None else {}
    costs = replace(costs, steps=steps or costs.steps, denoise=denoise or costs.denoise)
    if verify is not None:
        costs = replace(costs, decode=0.0, reward=verify, preview=None)
        return Experiment(known, costs, joint, weighted, drafts=drafts)
    scoring = {name: one.reward for name, one in measured.items()}
    costs = replace(costs, reward=sum(scoring.values()))
    return Experiment(known, costs, joint, weighted, scoring, previews, drafts)


def _scales(text: str | None, known: Collection[str]) -> dict[str, tuple[float, float]]:
    """Offset and unit of each reward that ``--scale`` names."""
    found = {}
    for part in text.split(",") if text else ():
        name, _, numbers = part.partition("=")
        try:
            offset, unit = map(float, numbers.split(":"))
        except ValueError:
            offset = unit = math.nan
        if name not in known or not (math.isfinite(offset) and 0 < unit < math.inf):
            raise UserError(
                f"--scale {part}: expected NAME=OFFSET:UNIT, NAME one of {', '.join(known)}, UNIT "
                "above 0"
            )
        found[name] = offset, unit
    return found


def _write_plan(
    path: Path,
    planned: dict[str, Any],
    experiment: Experiment,
    source: Path,
    chosen_by: dict[str, str],
    seed: int,
) -> None:
    from ttsnap.simulation.strategies import write_plan

    write_plan(path, planned, experiment, {"source": str(source), **chosen_by, "seed": seed})


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar, and what moves it on by one."""
    from ttsnap.progress import track

    ticks = track(range(total), description)
    next(ticks, None)

    def advance() -> None:
        next(ticks, None)

    yield advance


def _draw(out: Path, curves: pd.DataFrame, omega: pd.DataFrame, planned: dict[str, Any]) -> None:
    from ttsnap.report import figures
    from ttsnap.simulation.experiment import named

    gains = named(omega)
    figures.reward_vs_budget(
        named(curves), gains, out / "reward_vs_budget.png", unit=planned["unit"]
    )
    figures.omega(gains, out / "omega.png")
    for name in curves.prunes_by.unique():
        figures.schedules_over_budgets(planned, out / f"schedules_{name}.png", reward=name)


def _omega_table(omega: pd.DataFrame, words: str) -> Table:
    from rich.table import Table

    from ttsnap.simulation.experiment import named
    from ttsnap.simulation.omega import BEST_OF_N

    table = Table(
        title=f"Against best-of-N at equal compute, with 95 % intervals\n{words}",
        caption="ω: gain in area between the curves; M/N: best-of-N at this cost is as good as "
        "best-of-M; compute: what the same reward takes",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("strategy", "reward"):
        table.add_column(name, no_wrap=True)
    for name in ("ω, %", "", "M/N", "", "compute, %", ""):
        table.add_column(name, justify="right", no_wrap=True, style="" if name else "dim")
    for row in named(omega[omega.strategy != BEST_OF_N]).to_dict("records"):
        cells = [row["strategy"], row["reward"]]
        for figure, form, scale in (
            ("omega", "+.1f", 1),
            ("equivalent_n_ratio", ".2f", 1),
            ("compute_for_same_reward", ".0f", 100),
        ):
            mean, low, high = (scale * row[figure + end] for end in ("", "_low", "_high"))
            cells += [f"{mean:{form}}", f"[{low:{form}}, {high:{form}}]"]
        table.add_row(*cells)
    return table


def _plan_table(planned: dict[str, Any]) -> Table:
    from rich.table import Table

    from ttsnap.schedule import Schedule

    table = Table(title="Plans", title_justify="left", box=None, pad_edge=False)
    for name in ("strategy", "reward"):
        table.add_column(name)
    for name in ("budget", "N", "expected reward"):
        table.add_column(name, justify="right")
    table.add_column("schedule")
    robust = [one | {"budget": None, "n": None} for one in planned["robust"]]
    for one in [*planned["plans"], *robust]:
        expected = one["expected"] if one["budget"] else None
        strategy, runs = one["strategy"], one.get("run_as", one["strategy"])
        table.add_row(
            strategy if runs == strategy else f"{strategy}, as {runs}",
            one["reward"],
            f"{one['budget']:g}" if one["budget"] else "any",
            str(one["n"] or ""),
            f"{expected['mean']:.4g} [{expected['low']:.4g}, {expected['high']:.4g}]"
            if expected and None not in expected.values()
            else "–"
            if expected
            else "",
            str(Schedule.from_json(one["checks"])) or "best-of-N",
        )
    return table
