"""Ground truth: the reward of every final image of a split, as one tidy table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.stages import RewardName, RuntimeOption, StoreOption, json_option, run
from ttsnap.store.tensors import reward_table, write_table
from ttsnap.store.trajectories import open_store

VERSION = 1


class Settings(config.Settings):
    reward: config.RewardSettings
    split: config.SplitSettings
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    store: StoreOption,
    reward: RewardName,
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.rewards import load_reward
    from ttsnap.rewards.tensor import score_step

    trajectories = open_store(store)
    logging.info(
        "%s: %d prompts x %d images to score with %s",
        *(store.name, *trajectories.seeds.shape, reward),
    )
    model = load_reward(settings.reward, name=reward, device=runtime.device)
    scores = score_step(model, trajectories, trajectories.final, runtime.batch_size)
    ids = [prompt.id for prompt in trajectories.prompts]
    write_table(out, reward_table(ids, trajectories.seeds, scores))


if __name__ == "__main__":
    run(main)
