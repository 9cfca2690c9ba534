"""The command ``ttsnap rewards``."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def rewards(
    kind: Annotated[
        str | None, typer.Argument(help="List the options of this kind, or of MODULE:CLASS.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List the kinds of reward that a config can name, or the options of one.

    Example: `ttsnap rewards clip`
    """
    from rich.console import Console

    from ttsnap.rewards.registry import ENTRY_POINTS, KINDS, find_kind

    if kind is not None:
        found = find_kind(kind)
        if as_json:
            options = {name: field.description for name, field in _fields(found).items()}
            print(json.dumps({kind: options}, indent=1))
        else:
            Console().print(_options_table(kind, found))
        return
    if as_json:
        listed = {name: known.description for name, known in KINDS.items()}
        listed |= {one.name: one.value for one in entry_points(group=ENTRY_POINTS)}
        print(json.dumps(listed, indent=1))
        return
    table = _table("kind", "what it scores, what it needs")
    for name, known in KINDS.items():
        table.add_row(name, known.description)
    for entry in entry_points(group=ENTRY_POINTS):
        table.add_row(entry.name, f"Installed: {entry.value}.")
    table.add_row("MODULE:CLASS", "Your own; docs/adding-a-reward.md shows how.")
    Console().print(table)


def _fields(found: Any) -> dict[str, Any]:
    """The options of a kind; none of a class that names none."""
    kind = getattr(found, "Options", None)
    return {} if kind is None else dict(kind.model_fields)


def _options_table(kind: str, found: Any) -> Table | str:
    fields = _fields(found)
    if not fields:
        return f"{kind} has no options."
    table = _table("option", "default", "meaning")
    for name, field in fields.items():
        default = "required" if field.is_required() else json.dumps(field.default)
        table.add_row(name, default, field.description)
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        style = "bold" if number == 0 else None
        table.add_column(column, style=style, no_wrap=column != columns[-1])
    return table
