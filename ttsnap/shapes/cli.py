"""The ``ttsnap shapes`` commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The embedded world of shapes.", no_args_is_help=True)


class Part(StrEnum):
    """What to train."""

    generator = "generator"
    reward = "reward"
    all = "all"


@app.callback()
def main() -> None:
    """The embedded world of shapes."""


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder that receives `generator` and `clip`.")] = Path(
        "ttsnap/shapes/weights"
    ),
    part: Annotated[Part, typer.Option(help="What to train.")] = Part.all,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of each model's training; by default those of the card.", min=1),
    ] = None,
) -> None:
    """Rebuild the weights of the shapes world on the CPU.

    A training that was stopped goes on where it last saved its state.
    """
    if part != Part.reward:
        from ttsnap.shapes import train_generator

        train_generator.train(out / "generator", seed, **_given(steps))
    if part != Part.generator:
        from ttsnap.shapes import train_reward

        train_reward.train(out / "clip", seed, **_given(steps))


def _given(steps: int | None) -> dict[str, int]:
    return {} if steps is None else {"steps": steps}
