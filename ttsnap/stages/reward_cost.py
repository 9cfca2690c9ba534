"""What searching with a reward costs: an evaluation, a decode, a preview, a score.

Each is the config's, where it gives one, and measured otherwise: TFLOPs are counted, seconds taken
on the device of the run at its batch size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttsnap import config
from ttsnap.stages import RuntimeOption, json_option, run
from ttsnap.store import read_receipt, write_receipt

if TYPE_CHECKING:
    from ttsnap.rewards import Reward

VERSION = 2


class Settings(config.Settings):
    reward: config.RewardSettings
    model: config.Model
    sampling: config.Sampling
    costs: config.Costs
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    reward: Annotated[str, typer.Option(help="Name of the reward.")],
    model: Annotated[Path, typer.Option(help="Receipt of the model stage.")],
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.rewards import load_reward

    given = settings.costs.given(reward)
    if missing := [part for part, price in given.items() if price is None]:
        timed = settings.costs.unit == "seconds"
        device = runtime.device if timed else "cpu"
        scorer = load_reward(settings.reward, name=reward, device=device)
        measured = (
            _seconds(settings, runtime, scorer) if timed else _tflops(settings, scorer, model)
        )
        given |= {part: measured[part] for part in missing}
    write_receipt(
        out,
        {
            "kind": "costs",
            "reward": reward,
            "unit": settings.costs.unit,
            **given,
            "measured": missing,
        },
    )


def _tflops(settings: Settings, reward: Reward, model: Path) -> dict[str, float]:
    from ttsnap.diffusion.architectures import Architecture, model_tflops

    sampling = settings.sampling
    counted = model_tflops(
        Architecture.of(settings.model), sampling.height, sampling.width, sampling.guidance_scale
    )
    receipt = read_receipt(model)
    return {
        "denoise": receipt["denoise"],
        "decode": receipt["decode"],
        "preview": counted["preview"],
        "score": reward.tflops(sampling.height, sampling.width),
    }


def _seconds(settings: Settings, runtime: config.Runtime, reward: Reward) -> dict[str, float]:
    import numpy as np
    import torch

    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.architectures import preview_decoder
    from ttsnap.diffusion.flops import seconds

    batch = runtime.batch_size
    sampler = load_sampler(settings.model, settings.sampling, runtime.device)
    preview = preview_decoder(sampler.pipe.vae).to(sampler.device, sampler.dtype)
    latents = torch.zeros(batch, *sampler.latent_shape, device=sampler.device, dtype=sampler.dtype)
    images = np.zeros((batch, settings.sampling.height, settings.sampling.width, 3), np.uint8)
    return sampler.costs(seconds, batch) | {
        "preview": seconds(lambda: preview.decode(latents)) / batch,
        "score": seconds(lambda: reward.score(images, [""] * batch)) / batch,
    }


if __name__ == "__main__":
    run(main)
