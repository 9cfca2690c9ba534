"""The ``ttsnap`` command. Libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ttsnap.config import DEFAULT_YAML, load_config
from ttsnap.diffusion.cli import costs
from ttsnap.errors import UserError
from ttsnap.progress import quiet_libraries
from ttsnap.rewards.cli import import_rewards, rewards
from ttsnap.shapes.cli import app as shapes
from ttsnap.simulation import cli as simulation_cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttsnap.config import Config
    from ttsnap.schedule import Schedule
    from ttsnap.search import Progress as Standing
    from ttsnap.search import SearchResult, Task

app = typer.Typer(
    help="Better images for the same compute: prune bad noise seeds early.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(shapes, name="shapes")
app.command("simulate")(simulation_cli.simulate)
app.command("plan")(simulation_cli.plan)
app.command()(costs)
app.command("import-rewards")(import_rewards)
app.command()(rewards)
console = Console()


class Method(StrEnum):
    """Live search methods."""

    ttsnap = "ttsnap"
    ttsp = "ttsp"
    best_of_n = "best-of-n"


@app.command()
def search(
    prompt: Annotated[str, typer.Argument(help="What the image is to show.")],
    method: Annotated[
        Method,
        typer.Option(
            help="ttsnap prunes by the run's NARF checkpoints, ttsp by the untouched reward, "
            "best-of-n finishes every candidate."
        ),
    ] = Method.ttsnap,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Compute to spend, in costs.unit; by default the last of search.budgets."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of the candidates' noise seeds.", min=0)] = 0,
    schedule: Annotated[
        str | None,
        typer.Option(help="STEP:KEEP,… such as 2:0.4,6:0.4; by default that of the plan."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="What `ttsnap plan` wrote; by default the plan of the run."),
    ] = None,
    config: Annotated[
        Path, typer.Option(help="Configuration that names model, reward and run.")
    ] = DEFAULT_YAML,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default one below the run's live/.")
    ] = None,
) -> None:
    """Search for the best image of a prompt that a budget can buy.

    Writes **best.png**, **contact.png** (who was pruned when) and **trace.json**.

    Example: `ttsnap search "a small red circle left of a large blue ring on a gray background"`
    """
    from ttsnap.diffusion import load_sampler
    from ttsnap.pricing import cost_model
    from ttsnap.prompts import parse_prompt, seed_of
    from ttsnap.rewards import load_reward
    from ttsnap.schedule import Schedule, planned_schedule, read_plan
    from ttsnap.search import Task, best_of_n
    from ttsnap.search.pruning import prune

    settings = load_config(config)
    asked = parse_prompt(prompt)
    name = settings.search.reward
    spend = settings.search.budgets[-1] if budget is None else budget
    if not spend > 0:
        raise UserError(f"--budget {spend:g}: expected {settings.costs.unit} above 0")
    if method is Method.best_of_n and (schedule or plan):
        raise UserError("best-of-n prunes nothing; leave out --schedule and --plan")
    checks = Schedule.parse(schedule or "")
    found = None
    if method is not Method.best_of_n and schedule is None:
        found = read_plan(plan or Path(settings.results, settings.run, "plan", f"{name}.json"))
    load = partial(load_reward, settings.rewards[name], name=name, device=settings.runtime.device)
    with console.status("loading the model"):
        sampler = load_sampler(settings.model, settings.sampling, settings.runtime.device)
        reward = load()
        batch = settings.runtime.batch_size
        costs = cost_model(settings.costs, sampler, reward, settings.sampling, batch)
        if found:
            checks = planned_schedule(found, method.value, spend, reward=name, costs=costs)
        folders = _checkpoints(settings, checks) if method is Method.ttsnap else {}
        verifiers = {step: load(checkpoint=folder) for step, folder in folders.items()}
        task = Task(
            sampler=sampler,
            conditioning=sampler.encode([asked.text], [asked.negative]),
            prompt=asked.text,
            reward=reward,
            costs=costs,
            budget=spend,
            seed_of=partial(seed_of, seed, asked.id),
            model=settings.model.path,
            batch_size=batch,
        )
    result = _watched(
        task,
        best_of_n
        if method is Method.best_of_n
        else partial(prune, schedule=checks, verifiers=verifiers, method=method.value),
    )
    folder = out or Path(settings.results, settings.run, "live", method.value, asked.id)
    result.save(folder)
    fate = checks if result.schedule else Schedule()
    alive = " → ".join(map(str, fate.counts(len(result.candidates))))
    console.print(
        f"[bold]{name} {result.score:.3f}[/bold], seed {result.seed}; {alive} candidates, "
        f"{result.nfe} evaluations, {result.spent:.4g} of {result.budget:.4g} {result.unit}, "
        f"{result.seconds:.1f} s"
    )
    console.print(f"{folder}/best.png, contact.png, trace.json", soft_wrap=True, highlight=False)


def _checkpoints(settings: Config, schedule: Schedule) -> dict[int, Path]:
    """The run's NARF checkpoint for each check."""
    narf = Path(settings.results, settings.run, "narf", settings.search.reward)
    folders = {check.step: narf / f"step_{check.step:02d}" for check in schedule.checks}
    for step, folder in folders.items():
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no NARF checkpoint for step {step}; run the workflow first "
                f"(`make demo` for the default), check at one of narf.steps, or use --method ttsp"
            )
    return folders


def _watched(task: Task, method: Callable[[Task], SearchResult]) -> SearchResult:
    """Run a search under a bar of the budget it has spent."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} % of the budget"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("starting", total=task.budget)

        def show(now: Standing) -> None:
            best = "" if now.best is None else f", best {now.best:.3f}"
            words = f"step {now.step + 1}, {now.alive} of {now.n} candidates alive{best}"
            bar.update(line, completed=now.spent, description=words)

        return method(replace(task, observe=show))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run, such as results/shapes.")],
) -> None:
    """Prove a run's trajectory stores against their receipts; exit with 1 if anything is wrong."""
    from ttsnap.store import verify as verify_store

    stores = sorted((run / "trajectories").glob("*.zarr"))
    if not stores:
        raise UserError(f"{run}/trajectories: no stores here, expected the folder of a run")
    problems = 0
    for store in stores:
        found = verify_store(store, store.with_suffix(""))
        for problem in found:
            print(f"{store}: {problem}")
        problems += len(found)
        if not found:
            print(f"{store}: all blocks are there and as written")
    if problems:
        raise typer.Exit(1)


@app.command("export")
def export_store(
    store: Annotated[Path, typer.Argument(help="Trajectory store, such as …/test.zarr.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Write a store as PNG files: **p0000/id000/s00.png** is prompt 0, image 0, step 0."""
    from ttsnap.folders import export_folders

    print(f"{export_folders(store, out)} images in {out}")


@app.command("import")
def import_store(
    folder: Annotated[Path, typer.Argument(help="Folder with p0000/id000/s00.png …")],
    prompts: Annotated[Path, typer.Option(help="JSON file of its prompts, in order.")],
    out: Annotated[Path, typer.Option(help="Trajectory store to write, such as test.zarr.")],
    prompts_per_shard: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Read a folder of PNG files, laid out as `ttsnap export` writes it, into a store."""
    from ttsnap.folders import import_folders
    from ttsnap.prompts import load_prompts

    count = import_folders(
        folder,
        out,
        load_prompts(prompts),
        receipts=out.with_suffix(""),
        block=prompts_per_shard,
    )
    print(f"{count} images in {out}")


@app.command()
def summary(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
) -> None:
    """Print the headline numbers of a run and where its report lies."""
    from ttsnap.report.summary import headline, table

    console.print(table(headline(run)))


def main() -> None:
    """Run the command; what the user can put right is one line on stderr."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        print(f"ttsnap: {error}", file=sys.stderr)
        sys.exit(1)
