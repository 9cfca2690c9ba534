"""Finetune a reward for one step, from the checkpoint of the next cleaner one."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttsnap import config
from ttsnap.errors import UserError
from ttsnap.stages import (
    PreviewReceipt,
    RewardName,
    RuntimeOption,
    StoreOption,
    json_option,
    load_preview,
    run,
)
from ttsnap.store.files import Place, sha256_of
from ttsnap.store.receipts import write_receipt
from ttsnap.store.tensors import read_table, reward_matrix
from ttsnap.store.trajectories import open_store

if TYPE_CHECKING:
    from accelerate import Accelerator

VERSION = 1
PATIENCE = timedelta(hours=6)  # for processes that wait while the main one validates


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
    train_store: StoreOption,
    val_store: StoreOption,
    train_rewards: Annotated[Path, typer.Option(help="Ground truth of the train split.")],
    val_rewards: Annotated[Path, typer.Option(help="Ground truth of the val split.")],
    out: Annotated[Path, typer.Option()],
    cleaner: Annotated[
        Path | None, typer.Option(help="Receipt of the next cleaner step's checkpoint.")
    ] = None,
    preview: PreviewReceipt = None,
) -> None:
    from ttsnap.narf.curriculum import finetune_step
    from ttsnap.narf.data import StepData
    from ttsnap.rewards import load_trainable_reward

    def data(where: Place, table: Path, neighbours: int) -> StepData:
        store = open_store(where)
        teacher = reward_matrix(read_table(table), [prompt.id for prompt in store.prompts])
        return StepData.from_store(store, teacher, step, neighbours, shown)

    shown = load_preview(preview)
    began = time.perf_counter()
    accelerator = _accelerator(runtime)
    together = accelerator.num_processes > 1
    device = str(accelerator.device) if together else runtime.device
    folder = out.with_suffix("")
    train = data(train_store, train_rewards, settings.narf.neighbours)
    val = data(val_store, val_rewards, 0)
    logging.info(
        "%s for step %d, from %s: %d train and %d val images, %d epochs in batches of %d",
        *(reward, step, cleaner.stem if cleaner else "the untouched reward"),
        *(train.teacher.size, val.teacher.size, settings.narf.epochs, settings.narf.batch_size),
    )
    history = finetune_step(
        load_trainable_reward(settings.reward, name=reward, device=device),
        train,
        settings.narf,
        start=cleaner.with_suffix("") if cleaner else None,
        out=folder,
        seed=settings.seed,
        val_data=val,
        accelerator=accelerator,
        at_once=runtime.train_batch,
    )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return
    validated = history.dropna(subset="val_kendall_tau")
    kept = validated[validated.kept].iloc[0]
    logging.info(
        "Kendall tau to the final rewards on val: %.3f before, %.3f after epoch %d, which is kept",
        *(validated.val_kendall_tau.iloc[0], kept.val_kendall_tau, kept.epoch),
    )
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


def _accelerator(runtime: config.Runtime) -> Accelerator:
    """Join the processes that train together.

    Raises:
        UserError: if they are not as many as ``runtime`` says.
    """
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    no_gpu = runtime.device == "auto" and not torch.cuda.is_available()
    accelerator = Accelerator(
        cpu=runtime.device == "cpu" or no_gpu,
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if (found := accelerator.num_processes) != runtime.processes:
        raise UserError(
            f"runtime.processes: {runtime.processes}, but {found} joined on {accelerator.device}; "
            f"start them by `accelerate launch --multi_gpu --num_processes {runtime.processes}`"
        )
    return accelerator


if __name__ == "__main__":
    run(main)
