"""The commands ``ttsnap search``, ``ttsnap methods`` and ``ttsnap models``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ttsnap.config import DEFAULT_YAML, Config, load_config
from ttsnap.errors import UserError
from ttsnap.searching.budget import Budget

if TYPE_CHECKING:
    from ttsnap.prompts import Prompt
    from ttsnap.searching import SearchResult
    from ttsnap.searching.display import SearchView
    from ttsnap.searching.methods import MethodOptions

INTERRUPTED = 130  # exit status, as of a program that SIGINT ended

console = Console()


def search(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What the image is to show; several, each in quotes.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON file of prompts, in place of the arguments.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="How to search; `ttsnap methods` lists them.")
    ] = "ttsnap",
    budget: Annotated[
        str | None,
        typer.Option(
            help="For each prompt, such as 2000tflops, 400nfe (denoiser evaluations) or 60s; a "
            "bare number is in costs.unit. By default the last of search.budgets."
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="What judges, by its name in the configuration or as KIND:PATH[@COMMIT]; several, "
            "as NAME,NAME, count alike. By default search.reward."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="[FAMILY:]PATH, or a hub id with its commit, ORG/NAME@COMMIT; by default that of "
            "the configuration."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of the candidates' noise seeds.", min=0)] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write, with one below it for each prompt; by default one below live/ "
            "of the run, named by the settings."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out the prompts that are finished in --out.")
    ] = False,
    keep_finals: Annotated[
        bool, typer.Option("--keep-finals", help="Keep every finished image, not only the best.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, a setting of the method; may be repeated."),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="STEP:KEEP,… such as 2:0.4,6:0.4; by default that of the plan."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="What `ttsnap plan` wrote; by default the plan of the run."),
    ] = None,
    narf: Annotated[
        bool | None,
        typer.Option(
            help="Look at early steps with the run's NARF checkpoints; only ttsnap does by itself."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="NAME or NAME,KEY=VALUE,… such as DDIMScheduler,eta=1; by default the "
            "configuration's, or one that adds noise for a method that searches the noise of "
            "steps."
        ),
    ] = None,
    config: Annotated[
        Path, typer.Option(help="Configuration that names model, rewards and run.")
    ] = DEFAULT_YAML,
) -> None:
    """Search for the best image of each prompt that a budget can buy.

    Writes, below --out, for each prompt **best.png**, **contact.png** (who was pruned when),
    **rounds/** and **trace.jsonl**. Ctrl-C keeps the best so far; --resume goes on.

    Example: `ttsnap search "a small red circle left of a large blue ring on a gray background"`
    """
    from ttsnap.rewards import load_reward
    from ttsnap.schedule import read_plan
    from ttsnap.searching.output import check_settings
    from ttsnap.searching.request import (
        check_options,
        check_plan,
        check_reward,
        check_scheduler,
        method_named,
        method_options,
        planned_options,
        read_options,
        read_scheduler,
    )

    asked = _prompts(prompt or [], prompts)
    settings, names = _configured(load_config(config), model, reward)
    how = method_named(method)
    unit = settings.costs.unit
    spend = Budget.parse(budget, unit) if budget else Budget(settings.search.budgets[-1], unit)
    sampling = settings.sampling
    if scheduler:
        sampling = sampling.model_copy(update={"scheduler": read_scheduler(scheduler)})
    given = read_options(option or []) | ({} if schedule is None else {"schedule": schedule})
    if plan and not how.prunes:
        raise UserError(f"method {method} prunes nothing; leave out --plan")
    if narf and not how.verified:
        raise UserError("--narf: ttsp looks by the untouched reward; with checkpoints it is ttsnap")
    by = names[0] if len(names) == 1 else "joint"
    found = None
    if how.prunes and "schedule" not in given:
        found = read_plan(plan or Path(settings.results, settings.run, "plan", f"{names[0]}.json"))
        check_plan(found, how, by, sampling.steps)
    options = method_options(how, ({"schedule": ""} if found else {}) | given)
    check_options(options, sampling.steps)
    verified = how.looks_by_narf if narf is None else narf
    folders = _checkpoints(settings, names, options) if verified and not found else {}
    for name in names:
        check_reward(settings.rewards[name], name)
    record: dict[str, Any] = {
        "method": method,
        "budget": str(spend),
        "seed": seed,
        "model": settings.model.model_dump(),
        "rewards": {name: settings.rewards[name].model_dump() for name in names},
        "keep_finals": keep_finals,
    }
    live = Path(settings.results, settings.run, "live")
    check_settings(out or live, record if out else {}, partly=True)

    from ttsnap.diffusion import load_sampler
    from ttsnap.searching.searcher import Searcher

    device, batch = settings.runtime.device, settings.runtime.batch_size
    load = {
        name: partial(load_reward, settings.rewards[name], name=name, device=device)
        for name in names
    }
    with console.status("loading the models"):
        sampler = load_sampler(settings.model, sampling, settings.runtime)
        if scheduler:
            check_scheduler(how, sampler)
        rewards = [load[name]() for name in names]
        searcher = Searcher(
            sampler,
            rewards,
            costs=settings.costs,
            model=settings.model.path,
            batch_size=batch,
            keep_finals=keep_finals,
        )
        costs = searcher.prices(spend.unit)
        if found:
            planned = planned_options(found, how, spend.value, by, costs)
            options = method_options(how, given | planned)
            folders = _checkpoints(settings, names, options) if verified else {}
        searcher.verifiers = {
            step: tuple(load[name](checkpoint=path) for name, path in of.items())
            for step, of in folders.items()
        }
        searcher.expect(asked)
    chosen = searcher.scheduler_for(how) or sampling.scheduler
    record |= {
        "options": options.model_dump(),
        "sampling": sampling.model_copy(update={"scheduler": chosen}).model_dump(),
        "verifiers": {step: list(map(str, of.values())) for step, of in folders.items()},
        "prices": None if spend.unit == "seconds" else asdict(costs),
    }
    folder = out or live / f"{method}-{_digest(record)}"
    check_settings(folder, record)

    def search_one(one: Prompt, view: SearchView, stop: Event) -> SearchResult:
        return searcher.run(
            one,
            how,
            options,
            budget=spend,
            seed=seed,
            observe=view.observe,
            cancelled=stop.is_set,
        )

    heading = f"{method}, {', '.join(names)}, seed {seed}"
    _search_all(asked, search_one, folder, record, heading, sampler.steps, resume)


def _search_all(
    asked: Sequence[Prompt],
    search_one: Callable[[Prompt, SearchView, Event], SearchResult],
    folder: Path,
    settings: dict[str, Any],
    heading: str,
    steps: int,
    resume: bool,
) -> None:
    """Search and save prompt after prompt, past those that cannot be scored.

    Args:
        asked: the prompts.
        search_one: searches for one, reports to a view, and stops at an event.
        folder: that receives a folder for each.
        settings: of the search, kept in the folder.
        heading: for the views.
        steps: of the sampler.
        resume: leave out those that are finished.

    Raises:
        UserError: some could not be scored.
        Exit: it was interrupted.
    """
    from ttsnap.searching.display import SearchView, interruptible, refuse, shown, tell
    from ttsnap.searching.ledger import UnscoredError
    from ttsnap.searching.output import (
        is_finished,
        is_refused,
        save,
        save_refusal,
        write_settings,
    )

    before = {one.id for one in asked if resume and is_finished(folder / one.id)}
    if before:
        skipped = sum(is_refused(folder / one) for one in before)
        refused_then = f", {skipped} of them refused" if skipped else ""
        console.print(
            f"{len(before)} of {len(asked)} prompts were finished before{refused_then}",
            style="dim",
        )
    done, refused = len(before), 0
    stop = Event()
    try:
        for one in asked:
            if one.id in before:
                continue
            place = f"{done + 1}/{len(asked)}" if len(asked) > 1 else ""
            view = SearchView(one.text, heading, steps, place)
            try:
                with shown(view, console), interruptible(stop, view):
                    result = search_one(one, view, stop)
            except UnscoredError as reason:
                write_settings(folder, settings)
                save_refusal(folder / one.id, one.text, str(reason))
                refuse(one.text, str(reason), console)
                done, refused = done + 1, refused + 1
                continue
            write_settings(folder, settings)
            save(result, folder / one.id, settings={"prompt_id": one.id})
            tell(result, one.text, folder / one.id, console)
            done += not result.interrupted
            if stop.is_set():
                break
    except KeyboardInterrupt:
        stop.set()
    if stop.is_set():
        console.print(
            f"interrupted: {done} of {len(asked)} prompts finished in {folder}; --resume goes on",
            style="yellow",
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED)
    if refused:
        raise UserError(
            f"{refused} of {len(asked)} prompts could not be scored, {folder} says why; --resume "
            "goes past them"
        )


def _prompts(texts: Sequence[str], file: Path | None) -> list[Prompt]:
    from ttsnap.prompts import load_prompts, parse_prompt

    if bool(texts) == bool(file):
        raise UserError("expected a PROMPT, or --prompts FILE, and not both")
    if file:
        return load_prompts(file)
    return list({found.id: found for found in map(parse_prompt, texts)}.values())


def _configured(
    settings: Config, model: str | None, reward: str | None
) -> tuple[Config, list[str]]:
    """``settings`` with the model and the rewards that were asked for, and the rewards' names.

    Raises:
        UserError: a reward is neither configured nor can be, a hub id has no commit, …
    """
    from ttsnap.diffusion import SAMPLERS
    from ttsnap.searching.request import read_reward, read_source

    given = settings.model_dump()
    if model:
        family, _, path = model.partition(":")
        if family not in SAMPLERS:
            family, path = settings.model.family, model
        given["model"] |= {"family": family, **read_source(path)}
    names = []
    for text in (reward or settings.search.reward).split(","):
        name = text
        if text not in settings.rewards:
            name, given["rewards"][name] = read_reward(text)
        if name in names:
            raise UserError(f"--reward {reward}: {name} is listed twice")
        names.append(name)
    return load_config(given), names


def _checkpoints(
    settings: Config, names: Sequence[str], options: MethodOptions
) -> dict[int, dict[str, Path]]:
    """The run's NARF checkpoints of each reward, for the checks of a schedule or for all steps."""
    from ttsnap.searching.methods.pruning import Pruning

    steps = settings.narf.steps
    if isinstance(options, Pruning):
        steps = [check.step for check in options.checks(settings.sampling.steps).checks]
    run = Path(settings.results, settings.run, "narf")
    folders = {step: {name: run / name / f"step_{step:02d}" for name in names} for step in steps}
    for step, of in folders.items():
        for folder in of.values():
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: no NARF checkpoint for step {step}; run the workflow first "
                    "(`make demo` for the default), check at one of narf.steps, or use "
                    "--method ttsp"
                )
    return folders


def _digest(record: dict[str, Any]) -> str:
    """Eight letters that tell searches with different settings apart."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


def methods() -> None:
    """List the search methods, what they do, and their settings with their defaults."""
    from ttsnap.searching.methods import METHODS

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("noise", no_wrap=True)
    table.add_column("NegToMe", no_wrap=True)
    table.add_column("what it does; --option KEY=VALUE changes its settings")
    for name, method in METHODS.items():
        marks = ["✓" if mark else "" for mark in (method.needs_noise, method.negtome)]
        table.add_row(Text(name, "bold"), *marks, Text(method.summary, "bold"))
        for option, field in method.options.model_fields.items():
            default = "…" if field.is_required() else json.dumps(field.default)
            table.add_row(f"  {option}={default}", "", "", Text(field.description or "", "dim"))
    console.print(table)
    console.print(
        "\nnoise: searches the noise of the steps; where the scheduler adds none, another one is "
        "taken that does.\nNegToMe: images are pushed apart if sampling.negtome asks for that; "
        "elsewhere it is left out.",
        style="dim",
        highlight=False,
    )


def models() -> None:
    """List the families of models that can be searched, and those whose costs are known."""
    with console.status("loading diffusers"):
        from ttsnap.diffusion import SAMPLERS
        from ttsnap.diffusion.architectures import ARCHITECTURES

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("family", style="bold")
    table.add_column("any diffusers pipeline of this class")
    for family, place in SAMPLERS.items():
        module, _, sampler = place.partition(":")
        table.add_row(family, getattr(import_module(module), sampler).pipeline_class)
    console.print(table)
    console.print(
        f"\n--model FAMILY:PATH takes a folder, or a hub id with its commit, ORG/NAME@COMMIT.\n"
        f"`ttsnap costs` knows {', '.join(ARCHITECTURES)} without their weights.",
        style="dim",
        highlight=False,
    )
