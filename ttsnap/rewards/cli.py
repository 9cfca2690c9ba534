"""The command ``ttsnap rewards``."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from ttsnap.table_cli import AsJson, plain_table, print_json


def rewards(
    kind: Annotated[
        str | None, typer.Argument(help="List the options of this kind, or of MODULE:CLASS.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the kinds of reward that a config can name, or the options of one.

    Example: `ttsnap rewards clip`
    """
    from rich.console import Console

    from ttsnap.rewards.registry import ENTRY_POINTS, KINDS, find_kind

    if kind is not None:
        options = _options(find_kind(kind))
        if as_json:
            print_json({"kind": kind, "options": options})
        elif options:
            table = plain_table("option", "default", "meaning")
            for name, one in options.items():
                default = json.dumps(one["default"]) if "default" in one else "required"
                table.add_row(name, default, one["description"])
            Console().print(table)
        else:
            print(f"{kind} has no options.")
        return
    kinds = {name: known.description for name, known in KINDS.items()}
    kinds |= {one.name: f"Installed: {one.value}." for one in entry_points(group=ENTRY_POINTS)}
    if as_json:
        print_json([{"kind": name, "description": words} for name, words in kinds.items()])
        return
    table = plain_table("kind", "what it scores, what it needs")
    for name, words in kinds.items():
        table.add_row(name, words)
    table.add_row("MODULE:CLASS", "Your own; docs/adding-a-reward.md shows how.")
    Console().print(table)


def _options(found: Any) -> dict[str, dict[str, Any]]:
    """Options of a kind by their names; one without a default must be given."""
    fields = found.Options.model_fields if hasattr(found, "Options") else {}
    return {
        name: {
            "description": field.description,
            **({} if field.is_required() else {"default": field.default}),
        }
        for name, field in fields.items()
    }
