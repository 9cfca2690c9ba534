"""The commands ``ttsnap export`` and ``ttsnap import``: stores as trees of PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttsnap.store.files import Place, local_folder, place


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


def import_store(
    folder: Annotated[Path, typer.Argument(help="Folder with p0000/id000/s00.png …")],
    prompts: Annotated[Path, typer.Option(help="File of its prompts, in order.")],
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
