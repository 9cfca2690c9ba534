"""The ``ttsnap shapes`` commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ttsnap.errors import UserError
from ttsnap.shapes.misled import CAPTION_NOISE, FAULTS

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
    caption_noise: Annotated[
        float,
        typer.Option(
            help="Share of the captions of the generator's last phase that are wrong in part.",
            min=0,
            max=1,
        ),
    ] = CAPTION_NOISE,
    fault: Annotated[
        list[str],
        typer.Option(help=f"What can be wrong in them, repeatable: {', '.join(FAULTS)}."),
    ] = [*FAULTS],  # noqa: B006
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
) -> None:
    """Rebuild the weights of the shapes world, the two models at the same time.

    A training that was stopped goes on where it last saved its state.
    """
    if unknown := set(fault).difference(FAULTS):
        raise UserError(f"--fault {min(unknown)}: must be one of {', '.join(FAULTS)}")
    _require(device)
    given: dict[str, Any] = {"seed": seed, "device": device} | (
        {} if steps is None else {"steps": steps}
    )
    generator = partial(
        _generator, out / "generator", caption_noise=caption_noise, faults=fault, **given
    )
    reward = partial(_reward, out / "clip", **given)
    _together({Part.generator: [generator], Part.reward: [reward]}.get(part, [generator, reward]))


def _require(device: str) -> None:
    """See that a device is there.

    Raises:
        UserError: it is not.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {device} is not usable: {reason}") from None


def _generator(out: Path, **settings: Any) -> None:
    from ttsnap.shapes import train_generator

    train_generator.train(out, **settings)


def _reward(out: Path, **settings: Any) -> None:
    from ttsnap.shapes import train_reward

    train_reward.train(out, **settings)


def _together(calls: Sequence[Callable[[], None]]) -> None:
    """Make calls at the same time, each but the first in a process of its own.

    They share the cores: where two compute with all of them, both wait longer than they work.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import torch

    first, *others = calls
    threads = max(1, torch.get_num_threads() // len(calls))
    torch.set_num_threads(threads)
    with ProcessPoolExecutor(
        max(1, len(others)),
        get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(threads,),
    ) as pool:
        waiting = [pool.submit(call) for call in others]
        first()
        for call in waiting:
            call.result()
