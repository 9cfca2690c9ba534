"""Fit the linear preview of a model to final latents of train and what they decode to."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.stages import StoreOption, json_option, run
from ttsnap.store.files import sha256_of
from ttsnap.store.receipts import write_receipt
from ttsnap.store.trajectories import open_store

VERSION = 1
PICTURES, PICTURE_BYTES = 1500, 2**28
"""What is fitted to and measured on, at most."""


class Settings(config.Settings):
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Receipt; the map lies beside it.")],
) -> None:
    from ttsnap.diffusion.linear_preview import LinearPreview

    stored = open_store(store)
    picture = math.prod(stored.array.shape[3:])
    most = min(PICTURES, PICTURE_BYTES // picture) // stored.images_per_prompt
    prompts = slice(0, min(len(stored.block_prompts(0)), max(1, most)))
    images = stored.images(prompts)
    latents = stored.latents_of(prompts, stored.final)
    preview, r2 = LinearPreview.fit(
        latents.reshape(-1, *latents.shape[2:]), images.reshape(-1, *images.shape[2:])
    )
    preview.save(out.with_suffix(".safetensors"))
    count = images.shape[0] * images.shape[1]
    logging.info("fitted to %d pictures; held-out R^2 of the colours %.3f", count, r2)
    write_receipt(
        out,
        {
            "kind": "preview",
            "pictures": count,
            "r2": r2,
            "sha256": sha256_of(out.with_suffix(".safetensors")),
        },
    )


if __name__ == "__main__":
    run(main)
