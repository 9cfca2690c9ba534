"""The commands ``ttsnap search`` and ``ttsnap again``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ttsnap.config import load_config
from ttsnap.errors import UserError
from ttsnap.run.request import load, request_of
from ttsnap.searching.budget import WHOLE_IMAGES
from ttsnap.searching.request import check_whole, read_options

if TYPE_CHECKING:
    from ttsnap.prompts import Prompt
    from ttsnap.searching import SearchResult
    from ttsnap.searching.display import SearchView

INTERRUPTED = 130  # exit status, as of a program that SIGINT ended

console = Console()


def search(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What the image is to show; several, each in quotes.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts, .txt, .json, .jsonl, .csv or .tsv, or - for standard input, in "
            "place of the arguments."
        ),
    ] = None,
    prompt_column: Annotated[
        str | None,
        typer.Option(help="Column or key of --prompts that holds them, if its name does not tell."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How to search; `ttsnap methods` lists them. By default ttsnap where the run has "
            "NARF checkpoints for this model, else ttsp."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="For each prompt, such as 2000tflops, 400nfe (denoiser evaluations) or 60s; a "
            "bare number is in costs.unit. By default the last of search.budgets, of a model of "
            f"your own what {WHOLE_IMAGES} whole images cost."
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="What judges, by its name in the configuration or as KIND:PATH[@COMMIT]; several, "
            "as NAME,NAME, count alike. By default search.reward, of a model of your own PickScore."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder, .safetensors or .gguf file, or hub id ORG/NAME[@COMMIT], after FAMILY: "
            "if its files do not tell; by default that of the configuration."
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="PATH[:SCALE] of a LoRA for the model; may be repeated."),
    ] = None,
    components: Annotated[
        str | None,
        typer.Option(help="Folder or ORG/NAME[@COMMIT] with what a single file as --model lacks."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What the images are not to show.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="NAME or NAME,KEY=VALUE,… such as DDIMScheduler,eta=1; by default the model's, "
            "or one that adds noise for a method that searches the noise of steps."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, mps, cuda, cuda:1, …; auto is a GPU if any.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, float16 or bfloat16, of the model.")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="int8, fp8, bnb-int8 or bnb-nf4: fewer bits a weight of the model."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Candidates at once; fewer where memory does not bear them."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default as the work is worth.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of the candidates' noise seeds.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write, with one below it for each prompt; by default one below live/ "
            "of the run, or results/search/, named by the settings."
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
        typer.Option(
            help="STEP:KEEP,… such as 2:0.4,6:0.4; by default that of the run's plan, else one "
            "that ships, see `ttsnap plans`."
        ),
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
    config: Annotated[
        Path | None,
        typer.Option(
            help="Configuration that names model, rewards and run; by default that of the embedded "
            "shapes world, or of --model alone."
        ),
    ] = None,
) -> None:
    """Search for the best image of each prompt that a budget can buy.

    With --model, or a configuration that names one, what is not said is as the model has it: size,
    steps, guidance, scheduler. Writes, below --out, for each prompt **best.png**, **contact.png**
    (who was pruned when), **rounds/** and **trace.jsonl**. Ctrl-C keeps the best so far; --resume
    goes on.

    Examples: `ttsnap search "a small red circle left of a large blue ring on a gray background"`,
    `ttsnap search "a lighthouse at dusk" --model stabilityai/stable-diffusion-xl-base-1.0`
    """
    from ttsnap.searching.output import check_settings

    check_whole("seed", seed, 0)
    if threads is not None:
        check_whole("threads", threads, 1)
    asked = _prompts(prompt or [], prompts, prompt_column, negative_prompt)
    options = read_options(option or []) | ({} if schedule is None else {"schedule": schedule})
    with console.status("looking at what is asked for") as status:
        request = request_of(
            load_config(config) if config else None,
            model=model,
            loras=lora or [],
            components=components,
            reward=reward,
            sampling={
                "steps": steps,
                "guidance_scale": guidance,
                "height": height,
                "width": width,
                "scheduler": scheduler,
            },
            runtime={"device": device, "batch_size": batch_size},
            dtype=dtype,
            quantization=quantization,
            method=method,
            options=options,
            plan=plan,
            narf=narf,
            budget=budget,
            say=_say,
        )
        record: dict[str, Any] = {
            "method": request.method.name,
            "seed": seed,
            "rewards": {name: one.model_dump() for name, one in request.rewards.items()},
            "keep_finals": keep_finals,
        }
        check_settings(out or request.folder, record if out else {}, partly=True)
        status.update("loading the models")
        found = load(request, keep_finals=keep_finals, threads=threads)
        found.searcher.expect(asked)
    searcher, how, costs = found.searcher, request.method, found.costs
    record |= {
        "model": found.model.model_dump(),
        "budget": str(found.budget),
        "options": found.options.model_dump(),
        "sampling": searcher.sampler_for(how).sampling.model_dump(),
        "look": found.look,
        "verifiers": {step: list(map(str, of.values())) for step, of in found.folders.items()},
        "prices": None if found.budget.unit == "seconds" else asdict(costs),
    }
    folder = out or request.folder / f"{how.name}-{_digest(record)}"
    check_settings(folder, record)
    for line in filter(None, (found.about, found.notice)):
        _say(line)

    def search_one(one: Prompt, view: SearchView, stop: Event) -> SearchResult:
        return searcher.run(
            one,
            how,
            found.options,
            budget=found.budget,
            seed=seed,
            observe=view.observe,
            cancelled=stop.is_set,
        )

    heading = f"{how.name}, {', '.join(request.rewards)}, seed {seed}"
    whole = None if found.budget.unit == "seconds" else costs.cost(1)
    _search_all(asked, search_one, folder, record, heading, searcher.sampler.steps, resume, whole)


def _search_all(
    asked: Sequence[Prompt],
    search_one: Callable[[Prompt, SearchView, Event], SearchResult],
    folder: Path,
    settings: dict[str, Any],
    heading: str,
    steps: int,
    resume: bool,
    whole: float | None,
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
        whole: price of one image from start to end, if it is known.

    Raises:
        UserError: some could not be scored.
        Exit: it was interrupted.
    """
    from ttsnap.errors import JudgeRefused
    from ttsnap.prompts import folder_name
    from ttsnap.searching.display import SearchView, interruptible, refuse, shown, tell
    from ttsnap.searching.ledger import UnscoredError
    from ttsnap.searching.output import (
        is_finished,
        is_refused,
        save,
        save_refusal,
        write_settings,
    )

    before = {one.id for one in asked if resume and is_finished(folder / folder_name(one.id))}
    if before:
        skipped = sum(is_refused(folder / folder_name(one)) for one in before)
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
            except (UnscoredError, JudgeRefused) as reason:
                write_settings(folder, settings)
                save_refusal(folder / folder_name(one.id), one.text, str(reason))
                refuse(one.text, str(reason), console)
                done, refused = done + 1, refused + 1
                continue
            write_settings(folder, settings)
            save(result, folder / folder_name(one.id), settings={"prompt_id": one.id})
            tell(result, one.text, folder / folder_name(one.id), console, whole)
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


def _prompts(
    texts: Sequence[str], file: Path | None, column: str | None, negative: str | None
) -> list[Prompt]:
    from ttsnap.prompts import load_prompts, parse_prompt

    if bool(texts) == bool(file):
        raise UserError("expected a PROMPT, or --prompts FILE, and not both")
    if column and not file:
        raise UserError("--prompt-column: only with --prompts")
    found = load_prompts(file, column) if file else [parse_prompt(text) for text in texts]
    if negative is not None:
        found = [replace(one, negative=one.negative or negative) for one in found]
    return list({one.id: one for one in found}.values())


def _say(line: str) -> None:
    console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _digest(record: dict[str, Any]) -> str:
    """Eight letters that tell searches with different settings apart."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


def again(
    picture: Annotated[
        Path, typer.Argument(help="PNG of a search: best.png, or one below rounds/ or finals/.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="PNG to write; by default beside the picture, as NAME-again.png."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, mps, cuda, …; by default what drew it, if that is here."),
    ] = None,
) -> None:
    """Draw a picture of a search again, from what its PNG says, and compare the two.

    The noises are those of that picture alone, so that nothing is searched. The same device and
    versions give the same pixels, but for rounding where others were drawn in the same batch.

    Example: `ttsnap again found/p0123456789a/best.png`
    """
    from ttsnap.searching.again import compared, draw_again
    from ttsnap.searching.record import read_picture, save_picture

    out = out or picture.with_name(f"{picture.stem}-again.png")
    if out.suffix != ".png" or out.is_dir():
        raise UserError(f"--out {out}: expected the name of a .png file")
    before, record = read_picture(picture)
    try:
        with console.status("drawing"):
            now = draw_again(record, device=device, say=_say)
    except UserError as error:
        raise UserError(f"{picture}: {error}") from None
    drawn = record.model_copy(update={"generator": now.generator})
    save_picture(out, now.image, drawn, now.frame_rate)
    console.print(f"{out}: {compared(before, record, now)}", highlight=False, soft_wrap=True)
