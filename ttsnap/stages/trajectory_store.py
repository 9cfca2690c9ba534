"""Lay out a split's trajectory store, which its jobs then fill block by block."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ttsnap import config
from ttsnap.diffusion.sources import in_precision_of
from ttsnap.errors import UserError
from ttsnap.prompts import load_split, prompts_hash, seed_of
from ttsnap.stages import ModelReceipt, StoreOption, json_option, run
from ttsnap.store.receipts import read_receipt, write_receipt
from ttsnap.store.trajectories import create_store, store_receipt


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    split: config.SplitSettings
    seed: int
    prompts: str
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    model: ModelReceipt,
    store: StoreOption,
    out: Annotated[Path, typer.Option()],
) -> None:
    split = settings.split
    prompts = load_split(split)
    if prompts_hash(prompts) != settings.prompts:
        raise UserError(f"{split.file}: changed while the workflow ran; run it again")
    steps = split.stored(settings.sampling.steps)
    measured = read_receipt(model)
    chosen = in_precision_of(measured, settings.model)
    sigmas = np.asarray(measured["sigmas"], np.float32)[steps]
    seeds = [
        [seed_of(settings.seed, prompt.id, image) for image in range(split.images)]
        for prompt in prompts
    ]
    negtome = settings.sampling.negtome
    created = create_store(
        store,
        prompts=prompts,
        seeds=np.asarray(seeds, np.int64),
        steps=steps,
        sigmas=sigmas,
        height=settings.sampling.height,
        width=settings.sampling.width,
        block=split.prompts_per_job,
        settings={
            **settings.model_dump(mode="json", include={"model", "sampling", "version"}),
            "model": chosen.model_dump(mode="json"),
            "weights": measured["weights"],
        },
        latents=measured.get("latents"),
        groups=None if negtome is None else (negtome.group, negtome.reference),
        receipts=out.parent,
    )
    logging.info(
        "%s: %d prompts x %d images, %d steps stored, blocks of %d",
        *(store.name, len(prompts), split.images, len(steps), split.prompts_per_job),
    )
    write_receipt(out, store_receipt(created))


if __name__ == "__main__":
    run(main)
