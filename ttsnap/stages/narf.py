"""Finetune a reward for one step, from the checkpoint of the next cleaner one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.stages import RewardName, RuntimeOption, json_option, run
from ttsnap.store import open_store, read_table, reward_matrix, sha256_of, write_receipt

VERSION = 1


class Settings(config.Settings):
    reward: config.RewardSettings
    narf: config.Narf
    seed: int
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    reward: RewardName,
    step: Annotated[int, typer.Option(help="Step index.", min=0)],
    stores: Annotated[Path, typer.Option(help="Folder of the trajectory stores.")],
    train_rewards: Annotated[Path, typer.Option(help="Ground truth of the train split.")],
    val_rewards: Annotated[Path, typer.Option(help="Ground truth of the val split.")],
    out: Annotated[Path, typer.Option()],
    cleaner: Annotated[
        Path | None, typer.Option(help="Receipt of the next cleaner step's checkpoint.")
    ] = None,
) -> None:
    from ttsnap.narf.curriculum import finetune_step
    from ttsnap.narf.data import StepData
    from ttsnap.rewards import load_trainable_reward

    def data(split: str, table: Path, neighbours: int) -> StepData:
        store = open_store(stores / f"{split}.zarr")
        teacher = reward_matrix(read_table(table), [prompt.id for prompt in store.prompts])
        return StepData.from_store(store, teacher, step, neighbours)

    began = time.perf_counter()
    folder = out.with_suffix("")
    history = finetune_step(
        load_trainable_reward(settings.reward, name=reward, device=runtime.device),
        data("train", train_rewards, settings.narf.neighbours),
        settings.narf,
        start=cleaner.with_suffix("") if cleaner else None,
        out=folder,
        seed=settings.seed,
        val_data=data("val", val_rewards, 0),
    )
    validated = history.dropna(subset="val_kendall_tau")
    write_receipt(
        out,
        {
            "kind": "checkpoint",
            "reward": reward,
            "step": step,
            "start": cleaner.stem if cleaner else None,
            "val_kendall_tau": validated["val_kendall_tau"].tolist(),
            "files": {
                file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file()
            },
            "seconds": time.perf_counter() - began,
        },
    )


if __name__ == "__main__":
    run(main)
