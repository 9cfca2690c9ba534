"""The page of a run, from what the stage before drew and summed up."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from ttsnap.run.status import SETTINGS
from ttsnap.stages import run


def main(
    out: Annotated[
        Path, typer.Option(help="HTML in the folder of the run, which needs no other file.")
    ],
) -> None:
    from ttsnap.report.page import page

    folder = out.parent
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    text = page(folder, settings, _commit())
    out.write_text(text, encoding="utf-8")
    logging.info("%s: %.1f MB", out, out.stat().st_size / 1e6)


def _commit() -> str | None:
    """The commit of the project's clone; None outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    run(main)
