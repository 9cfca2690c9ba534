"""Measure the TFLOPs of scoring one image with a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.stages import json_option, run
from ttsnap.store import write_receipt

VERSION = 1


class Settings(config.Settings):
    reward: config.RewardSettings
    height: int
    width: int
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    reward: Annotated[str, typer.Option(help="Name of the reward.")],
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.rewards import load_reward

    model = load_reward(settings.reward, name=reward, device="cpu")
    write_receipt(
        out,
        {
            "kind": "reward",
            "reward": reward,
            "tflops": model.tflops(settings.height, settings.width),
        },
    )


if __name__ == "__main__":
    run(main)
