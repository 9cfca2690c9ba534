"""Generate one block of a trajectory store; see :mod:`ttsnap.generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.diffusion.sources import in_precision_of
from ttsnap.stages import RuntimeOption, StoreOption, json_option, run
from ttsnap.store.trajectories import open_store


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    split: config.SplitSettings
    prompts: str
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    store: StoreOption,
    block: Annotated[int, typer.Option(min=0)],
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.diffusion import load_sampler
    from ttsnap.generate import generate_block

    opened = open_store(store)
    model = in_precision_of(opened.settings["model"], settings.model)
    sampler = load_sampler(model, settings.sampling, runtime)
    generate_block(
        sampler,
        opened,
        block,
        receipt=out,
        batch_size=runtime.batch_size,
    )


if __name__ == "__main__":
    run(main)
