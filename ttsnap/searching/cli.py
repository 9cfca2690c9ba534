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
    from ttsnap.searching.display import Standing

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
            help="Folder, .safetensors file, or hub id ORG/NAME[@COMMIT], after FAMILY: if its "
            "files do not tell; by default that of the configuration."
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
            "configuration's, or for a method that searches the noise of steps "
            "DDIMScheduler,eta=1, of EDM Heun's with churn."
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
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.loading import settled
    from ttsnap.diffusion.sources import described, with_family
    from ttsnap.prompts import seed_of
    from ttsnap.rewards import load_reward
    from ttsnap.schedule import Schedule, read_plan
    from ttsnap.searching.methods import run_method
    from ttsnap.searching.output import check_settings
    from ttsnap.searching.setup import (
        cost_model,
        looks_by_narf,
        method_named,
        method_options,
        planned_options,
        prunes,
        read_options,
        read_scheduler,
        sampling_for,
    )
    from ttsnap.searching.task import Task

    asked = _prompts(prompt or [], prompts)
    settings, names = _configured(load_config(config), model, reward)
    how = method_named(method)
    unit = settings.costs.unit
    spend = Budget.parse(budget, unit) if budget else Budget(settings.search.budgets[-1], unit)
    chosen = read_scheduler(scheduler) if scheduler else None
    family = with_family(settings.model).family
    sampling = sampling_for(how, family, settings.sampling, chosen)
    given = read_options(option or []) | ({} if schedule is None else {"schedule": schedule})
    if plan and not prunes(how):
        raise UserError(f"method {method} prunes nothing; leave out --plan")
    if narf and method == "ttsp":
        raise UserError("--narf: ttsp looks by the untouched reward; with checkpoints it is ttsnap")
    found = None
    if prunes(how) and "schedule" not in given:
        found = read_plan(plan or Path(settings.results, settings.run, "plan", f"{names[0]}.json"))

    device, batch = settings.runtime.device, settings.runtime.batch_size
    load = {
        name: partial(load_reward, settings.rewards[name], name=name, device=device)
        for name in names
    }
    with console.status("loading the models"):
        generator = settled(settings.model, settings.runtime)
        sampler = load_sampler(generator, sampling, settings.runtime)
        rewards = tuple(load[name]() for name in names)
        costs = cost_model(spend.unit, settings.costs, sampler, rewards, sampling, batch)
        if found:
            by = names[0] if len(names) == 1 else "joint"
            given |= planned_options(found, how, spend.value, by, costs)
        options = method_options(how, given)
        folders = {}
        if looks_by_narf(how) if narf is None else narf:
            steps = settings.narf.steps
            if prunes(how):
                steps = [check.step for check in Schedule.parse(given["schedule"]).checks]
            folders = _checkpoints(settings, names, steps)
        verifiers = {
            step: tuple(load[name](checkpoint=path) for name, path in of.items())
            for step, of in folders.items()
        }
    record = {
        "method": method,
        "options": options.model_dump(),
        "budget": str(spend),
        "seed": seed,
        "model": generator.model_dump(),
        "sampling": sampling.model_dump(),
        "rewards": {name: settings.rewards[name].model_dump() for name in names},
        "verifiers": {step: list(map(str, of.values())) for step, of in folders.items()},
        "prices": None if spend.unit == "seconds" else asdict(costs),
        "keep_finals": keep_finals,
    }
    folder = out or Path(settings.results, settings.run, "live", f"{method}-{_digest(record)}")
    check_settings(folder, record)

    def search_one(prompt: Prompt, standing: Standing, stop: Event) -> SearchResult:
        task = Task(
            sampler=sampler,
            conditioning=sampler.encode([prompt.text], [prompt.negative]),
            prompt=prompt.text,
            rewards=rewards,
            costs=costs,
            budget=spend.value,
            seed_of=partial(seed_of, seed, prompt.id),
            verifiers=verifiers,
            model=described(generator),
            batch_size=batch,
            keep_finals=keep_finals,
            observe=standing.observe,
            cancelled=stop.is_set,
        )
        return run_method(method, task, options)

    heading = f"{method}, {', '.join(names)}, seed {seed}"
    if not _search_all(asked, search_one, folder, record, heading, sampler.steps, resume):
        raise typer.Exit(INTERRUPTED)


def _search_all(
    asked: Sequence[Prompt],
    search_one: Callable[[Prompt, Standing, Event], SearchResult],
    folder: Path,
    settings: dict[str, Any],
    heading: str,
    steps: int,
    resume: bool,
) -> bool:
    """Search and save prompt after prompt; whether nobody interrupted it.

    Args:
        asked: the prompts.
        search_one: searches for one, reports to a standing, and stops at an event.
        folder: that receives a folder for each.
        settings: of the search, kept in the folder.
        heading: for the standings.
        steps: of the sampler.
        resume: leave out those that are finished.
    """
    from ttsnap.searching.display import Standing, interruptible, shown, tell
    from ttsnap.searching.output import is_finished, write_settings

    before = {one.id for one in asked if resume and is_finished(folder / one.id)}
    if before:
        console.print(f"{len(before)} of {len(asked)} prompts were finished before", style="dim")
    done = len(before)
    stop = Event()
    try:
        for one in asked:
            if one.id in before:
                continue
            place = f"{done + 1}/{len(asked)}" if len(asked) > 1 else ""
            standing = Standing(one.text, heading, steps, place)
            with shown(standing, console), interruptible(stop, standing):
                result = search_one(one, standing, stop)
            write_settings(folder, settings)
            result.save(folder / one.id, settings={"prompt_id": one.id})
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
    return not stop.is_set()


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
    from ttsnap.diffusion.sources import read_model
    from ttsnap.searching.setup import read_reward

    given = settings.model_dump()
    if model:
        given["model"] = read_model(model, say=console.print).model_dump()
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
    settings: Config, names: Sequence[str], steps: Sequence[int]
) -> dict[int, dict[str, Path]]:
    """The run's NARF checkpoints of each reward for each step."""
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
    table.add_column("sampler", no_wrap=True)
    table.add_column("what it does; --option KEY=VALUE changes its settings")
    for name, method in METHODS.items():
        needs = "stochastic" if method.needs_stochastic else ""
        table.add_row(Text(name, "bold"), needs, Text(method.summary, "bold"))
        for option, field in method.options.model_fields.items():
            default = "…" if field.is_required() else json.dumps(field.default)
            table.add_row(f"  {option}={default}", "", Text(field.description or "", "dim"))
    console.print(table)
    console.print(
        "\nA method that needs a stochastic sampler searches the noise of its steps; it takes "
        "DDIMScheduler with eta 1, of EDM EDMHeunScheduler with churn, unless --scheduler names "
        "another.",
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
        "\n--model takes a folder, a .safetensors file or a hub id; its files say the family.\n"
        f"`ttsnap costs` knows {', '.join(ARCHITECTURES)} without their weights.",
        style="dim",
        highlight=False,
    )
