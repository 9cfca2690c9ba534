"""Measure a model: its noise levels, and the TFLOPs of one evaluation and one decode."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.diffusion.sources import described, model_files
from ttsnap.stages import RuntimeOption, json_option, run
from ttsnap.store.files import sha256_of
from ttsnap.store.receipts import write_receipt

VERSION = 2


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.linear_preview import LinearPreview
    from ttsnap.diffusion.loading import settled

    model = settled(settings.model, runtime)
    sampler = load_sampler(model, settings.sampling, runtime)
    if model.linear_preview:
        # Its price and the latents it takes are known before it is fitted.
        sampler.previewer = LinearPreview.unfitted(sampler)
    sigmas = [float(sigma) for sigma in sampler.sigmas]
    weights = {name: sha256_of(file) for name, file in model_files(model).items()}
    costs = sampler.costs()
    logging.info("%d steps, noise levels %.3g to %.3g", sampler.steps, sigmas[0], sigmas[-1])
    logging.info("TFLOPs: %(denoise).4g an evaluation, %(decode).4g a decode", costs)
    write_receipt(
        out,
        {
            "kind": "model",
            "model": described(model),
            "dtype": model.dtype,
            "autocast": model.autocast,
            "weights": weights,
            "steps": sampler.steps,
            "sigmas": sigmas,
            **costs,
            **({"latents": list(sampler.latent_size())} if model.linear_preview else {}),
        },
    )


if __name__ == "__main__":
    run(main)
