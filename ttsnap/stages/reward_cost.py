"""What searching with a reward costs: an evaluation, a decode, a score, a preview if there is one.

Each is the config's, where it gives one, and measured otherwise: TFLOPs are counted, seconds taken
on the device of the run at its batch size.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttsnap import config
from ttsnap.stages import ModelReceipt, RewardName, RuntimeOption, json_option, run
from ttsnap.store.receipts import read_receipt, write_receipt

if TYPE_CHECKING:
    from ttsnap.rewards import Reward

VERSION = 5


class Settings(config.Settings):
    reward: config.RewardSettings
    model: config.Model
    sampling: config.Sampling
    costs: config.Costs
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    reward: RewardName,
    model: ModelReceipt,
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.rewards import load_reward

    given = settings.costs.given(reward, preview=settings.model.preview is not None)
    if missing := [part for part, price in given.items() if price is None]:
        timed = settings.costs.unit == "seconds"
        device = runtime.device if timed else "cpu"
        scorer = load_reward(settings.reward, name=reward, device=device)
        measured = (
            _seconds(settings, runtime, scorer) if timed else _tflops(settings, scorer, model)
        )
        given |= {part: measured[part] for part in missing}
    prices = ", ".join(f"{part} {price:.4g}" for part, price in given.items())
    logging.info("%s, %s: %s", reward, settings.costs.unit, prices)
    write_receipt(
        out,
        {
            "kind": "costs",
            "reward": reward,
            "unit": settings.costs.unit,
            "looks": settings.model.looks,
            **given,
            "measured": missing,
        },
    )


def _tflops(settings: Settings, reward: Reward, model: Path) -> dict[str, float]:
    """Counted by the model stage already, but for the score."""
    sampling = settings.sampling
    return read_receipt(model) | {"score": reward.tflops(sampling.height, sampling.width)}


def _seconds(settings: Settings, runtime: config.Runtime, reward: Reward) -> dict[str, float]:
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.linear_preview import LinearPreview
    from ttsnap.searching.pricing import measure

    sampler = load_sampler(settings.model, settings.sampling, runtime)
    if settings.model.linear_preview:
        sampler.previewer = LinearPreview.unfitted(sampler)
    return measure("seconds", sampler, reward, runtime.batch_size)


if __name__ == "__main__":
    run(main)
