"""The ``ttsnap`` command. Libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import ttsnap
from ttsnap.bench.cli import bench
from ttsnap.diffusion.cli import costs
from ttsnap.errors import UserError, explain
from ttsnap.plans.cli import plans_command
from ttsnap.progress import quiet_libraries
from ttsnap.rewards.cli import rewards
from ttsnap.rewards.serve_cli import serve_reward
from ttsnap.run import cli as run_cli
from ttsnap.searching import cli as search_cli
from ttsnap.searching import lists_cli
from ttsnap.shapes.cli import app as shapes
from ttsnap.simulation import cli as simulation_cli
from ttsnap.simulation.import_cli import import_rewards
from ttsnap.store import cli as store_cli
from ttsnap.table_cli import AsJson, print_json

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(search_cli.search)
app.command()(search_cli.again)
app.command()(lists_cli.methods)
app.command()(lists_cli.models)
app.add_typer(shapes, name="shapes")
app.command()(bench)
app.command("simulate")(simulation_cli.simulate_command)
app.command("plan")(simulation_cli.plan_command)
app.command("plans")(plans_command)
app.command()(costs)
app.command("import-rewards")(import_rewards)
app.command()(rewards)
app.command()(serve_reward)
app.command()(run_cli.status)
app.command()(run_cli.estimate)
app.command("verify")(run_cli.verify_run)
app.command("repair")(run_cli.repair_run)
app.command("fetch")(run_cli.fetch_weights)
app.command("export")(store_cli.export_store)
app.command("import")(store_cli.import_store)
console = Console()


def _version(asked: bool) -> None:
    if asked:
        print(f"ttsnap {ttsnap.__version__}")
        raise typer.Exit


@app.callback()
def ttsnap_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Better images for the same compute: prune bad noise seeds early."""


@app.command()
def summary(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    as_json: AsJson = False,
) -> None:
    """Print the headline numbers of a run and where its page lies."""
    from ttsnap.report.summary import headline, page_of, table

    numbers, page = headline(run), page_of(run)
    if as_json:
        print_json(numbers | {"report": page})
    else:
        console.print(table(numbers, page))


def main() -> None:
    """Run the command; what the user can put right is one line on stderr."""
    quiet_libraries()
    try:
        app()
    except (UserError, OSError) as error:
        if (line := explain(error)) is None:
            raise
        print(f"ttsnap: {line}", file=sys.stderr)
        sys.exit(1)
