"""The ``ttsnap`` command. Libraries are imported by the commands that need them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from ttsnap.config import DEFAULT_YAML, Config, Split, load_config
from ttsnap.diffusion.cli import costs
from ttsnap.errors import UserError, explain
from ttsnap.progress import quiet_libraries
from ttsnap.rewards.cli import import_rewards, rewards
from ttsnap.run.cli import estimate, status
from ttsnap.run.fetch import fetch
from ttsnap.searching import cli as search_cli
from ttsnap.shapes.cli import app as shapes
from ttsnap.simulation import cli as simulation_cli
from ttsnap.store.files import Place, about, local_folder, place

app = typer.Typer(
    help="Better images for the same compute: prune bad noise seeds early.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(search_cli.search)
app.command()(search_cli.methods)
app.command()(search_cli.models)
app.add_typer(shapes, name="shapes")
app.command("simulate")(simulation_cli.simulate)
app.command("plan")(simulation_cli.plan)
app.command()(costs)
app.command("import-rewards")(import_rewards)
app.command()(rewards)
app.command()(status)
app.command()(estimate)
console = Console()


RunOrStore = Annotated[
    Path,
    typer.Argument(
        parser=local_folder,
        metavar="FOLDER",
        help="Folder of a run, such as results/shapes, or a store beside its receipts.",
    ),
]


def _stores(run: Path) -> list[tuple[Place, Path]]:
    """The trajectory stores of a run, or the one that ``run`` is, each with its receipts."""
    from ttsnap.run.status import SETTINGS

    if run.suffix == ".zarr":
        receipts = run.with_suffix("")
        if not receipts.is_dir():
            raise UserError(f"{receipts}: no receipts of {run} here; give the folder of its run")
        return [(run, receipts)]
    if (run / SETTINGS).is_file():
        # Other settings may be those of another version.
        given = json.loads((run / SETTINGS).read_text())
        if given.get("stores") is not None:
            config = Config(stores=given["stores"], run=given["run"])
            splits = get_args(Split)
            return [(place(config.store(name)), run / "trajectories" / name) for name in splits]
    stores = sorted((run / "trajectories").glob("*.zarr"))
    if not stores:
        raise UserError(f"{run}/trajectories: no stores here, expected the folder of a run")
    return [(store, store.with_suffix("")) for store in stores]


@app.command()
def verify(run: RunOrStore) -> None:
    """Prove trajectory stores against their receipts; exit with 1 if anything is wrong."""
    from ttsnap.store.trajectories import verify as verify_store

    problems = 0
    for store, receipts in _stores(run):
        found = verify_store(store, receipts)
        for problem in found:
            print(f"{store}: {problem}")
        problems += len(found)
        if not found:
            print(f"{store}: all blocks are there and as written")
    if problems:
        raise typer.Exit(1)


@app.command()
def repair(
    run: RunOrStore,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be taken away.")
    ] = False,
) -> None:
    """Take away what `ttsnap verify` finds damaged, so that the next run makes it anew.

    A damaged shard goes together with its receipt. `snakemake` then generates the blocks that lack
    theirs. They come out as they were, receipts included, so that nothing is redone after them.
    Exits with 1 if something is wrong that this does not mend.
    """
    from ttsnap.store.trajectories import repair as plan_repair
    from ttsnap.store.trajectories import verify as verify_store

    gone = left = 0
    for store, receipts in _stores(run):
        problems = verify_store(store, receipts)
        for problem in problems:
            print(f"{store}: {problem}")
        plan = plan_repair(store, receipts, problems)
        for file in plan.files:
            if not dry_run:
                with about(file):
                    file.unlink()
            print(f"{'would remove' if dry_run else 'removed'} {file}")
        for problem in plan.left:
            print(f"{store}: not mended by this: {problem}", file=sys.stderr)
        gone += len(plan.files)
        left += len(plan.left)
    if gone and not dry_run:
        print("now run `snakemake` as before: it makes just this anew")
    if left:
        raise typer.Exit(1)


@app.command("fetch")
def fetch_weights(
    config: Annotated[Path, typer.Option(help="Configuration of the run.")] = DEFAULT_YAML,
    pin: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG",
            help="Configuration of the run, into which the newest commits are written first where "
            "a hub id has none.",
        ),
    ] = None,
) -> None:
    """Download the models and rewards of a configuration, and prove them by their hashes.

    Runs afterwards need no network. Gated models want a token in the variable HF_TOKEN.
    """
    if pin is not None:
        from ttsnap.run.pinning import pin as write_commits

        for line in write_commits(pin):
            print(line)
        config = pin
    for one in fetch(load_config(config)):
        print(f"{one.source}: {one.files} files, {one.gigabytes:.2f} GB, licence {one.licence}")
    print(f"{config}: all that it takes from the hub is here")


@app.command("export")
def export_store(
    store: Annotated[
        Place,
        typer.Argument(
            parser=place, metavar="PLACE", help="Trajectory store, such as …/test.zarr, or its URL."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Write a store as PNG files: **p0000/id000/s00.png** is prompt 0, image 0, step 0."""
    from ttsnap.store.folders import export_folders

    print(f"{export_folders(store, out)} images in {out}")


@app.command("import")
def import_store(
    folder: Annotated[Path, typer.Argument(help="Folder with p0000/id000/s00.png …")],
    prompts: Annotated[Path, typer.Option(help="JSON file of its prompts, in order.")],
    out: Annotated[
        Path,
        typer.Option(
            parser=local_folder,
            metavar="FOLDER",
            help="Trajectory store to write, such as test.zarr.",
        ),
    ],
    prompts_per_shard: Annotated[int, typer.Option(min=1)] = 50,
) -> None:
    """Read a folder of PNG files, laid out as `ttsnap export` writes it, into a store."""
    from ttsnap.prompts import load_prompts
    from ttsnap.store.folders import import_folders

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
    except (UserError, OSError) as error:
        if (line := explain(error)) is None:
            raise
        print(f"ttsnap: {line}", file=sys.stderr)
        sys.exit(1)
