"""What the commands that print a table share: the same as JSON, for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for scripts.")]


def print_json(value: Any) -> None:
    """Print JSON types, in which a number that is none is null."""
    from ttsnap.strict_json import dumps

    print(dumps(value, indent=1))


def plain_table(*columns: str) -> Table:
    """A table without lines, whose first column stands out, and whose last may break its text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        style = "bold" if number == 0 else None
        table.add_column(column, style=style, no_wrap=column != columns[-1])
    return table
