"""The commands ``ttsnap methods`` and ``ttsnap models``."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ttsnap.table_cli import AsJson, plain_table, print_json

if TYPE_CHECKING:
    from ttsnap.searching.methods import Method

console = Console()


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Explain this one: what it does, by which paper.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the search methods, what they do, and their settings with their defaults.

    Example: `ttsnap methods beam`
    """
    from ttsnap.searching.methods import METHODS
    from ttsnap.searching.request import method_named

    if name is not None:
        method = method_named(name)
        if as_json:
            print_json(_described(method))
        else:
            _explain(method)
        return
    if as_json:
        print_json([_described(method) for method in METHODS.values()])
        return
    table = plain_table(
        "method", "noise", "NegToMe", "what it does; --option KEY=VALUE changes its settings"
    )
    for method in METHODS.values():
        marks = ["✓" if mark else "" for mark in (method.needs_noise, method.negtome)]
        title = Text(method.name).append(" (default)" * _is_default(method), "dim not bold")
        table.add_row(title, *marks, Text(method.summary, "bold"))
        for option, setting in _settings(method).items():
            about = Text(setting["description"], "dim")
            table.add_row(Text(f"  {option}={_value(setting)}", "not bold"), "", "", about)
    console.print(table)
    console.print(
        "\nnoise: searches the noise of the steps; where the scheduler adds none, another one is "
        "taken that does.\nNegToMe: images are pushed apart if sampling.negtome asks for that; "
        "elsewhere it is left out.\nDefault where the run has no NARF checkpoints for the model; "
        "with them it is ttsnap.",
        style="dim",
        highlight=False,
    )


def _explain(method: Method) -> None:
    """Print what a method does, and its settings."""
    title = Text(method.name, "bold").append(f": {method.summary}", "not bold")
    console.print(title.append(" (default)" * _is_default(method), "dim not bold"))
    for paragraph in _text(method).split("\n\n"):
        console.print(f"\n{' '.join(paragraph.split())}", highlight=False, markup=False)
    known = _settings(method)
    if known:
        table = plain_table("--option", "default", "meaning")
        for option, setting in known.items():
            table.add_row(option, _value(setting), setting["description"])
        console.print()
        console.print(table)
    noise = (
        "Searches the noise of the steps: a scheduler that adds none is replaced by one that does."
        if method.needs_noise
        else "Searches with any scheduler."
    )
    apart = (
        "NegToMe acts: images are pushed apart if sampling.negtome asks for that."
        if method.negtome
        else "NegToMe does not act, and is left out."
    )
    console.print(f"\n{noise}\n{apart}", style="dim", highlight=False)


def _described(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "default": _is_default(method),
        "summary": method.summary,
        "text": _text(method),
        "needs_noise": method.needs_noise,
        "negtome": method.negtome,
        "options": _settings(method),
    }


def _is_default(method: Method) -> bool:
    from ttsnap.searching.methods import DEFAULT

    return method.name == DEFAULT


def _text(method: Method) -> str:
    """What the method's function says of itself."""
    return inspect.getdoc(method.search) or ""


def _settings(method: Method) -> dict[str, dict[str, Any]]:
    """Settings of a method by their names; one without a default must be given, or is planned."""
    return {
        name: {
            "description": field.description or "",
            **({} if field.is_required() else {"default": field.default}),
        }
        for name, field in method.options.model_fields.items()
    }


def _value(setting: dict[str, Any]) -> str:
    return json.dumps(setting["default"]) if "default" in setting else "…"


def models(as_json: AsJson = False) -> None:
    """List the families of models that can be searched, and those whose costs are known."""
    from ttsnap.diffusion import SAMPLERS
    from ttsnap.diffusion.published import ARCHITECTURES

    if as_json:
        families = [
            {"family": name, "pipeline": one.pipeline, "models": one.summary, "videos": one.videos}
            for name, one in SAMPLERS.items()
        ]
        print_json({"families": families, "published": list(ARCHITECTURES)})
        return
    table = plain_table("family", "any diffusers pipeline of this class", "such as")
    for name, family in SAMPLERS.items():
        table.add_row(name, family.pipeline, Text(family.summary, "dim"))
    console.print(table)
    console.print(
        "\n--model takes a folder, a .safetensors or .gguf file, or a hub id, which say it.\n"
        f"`ttsnap costs` knows {', '.join(ARCHITECTURES)} without their weights.",
        style="dim",
        highlight=False,
    )
