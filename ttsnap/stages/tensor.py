"""Reward tensor of a split: every stored step scored by the base reward or by its checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ttsnap.stages import RewardName, RuntimeOption, StoreOption, json_option, run
from ttsnap.stages.rewards import Settings
from ttsnap.store.files import sha256_of
from ttsnap.store.receipts import read_receipt, write_receipt
from ttsnap.store.tensors import RewardTensor
from ttsnap.store.trajectories import open_store

VERSION = 1


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    store: StoreOption,
    reward: RewardName,
    out: Annotated[Path, typer.Option()],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Receipts of NARF checkpoints, each for its own step; none: base."),
    ] = None,
) -> None:
    from ttsnap.rewards import load_reward
    from ttsnap.rewards.tensor import score_step

    trajectories = open_store(store)
    checkpoints: dict[int, Path | None] = {
        read_receipt(path)["step"]: path.with_suffix("") for path in checkpoint or []
    } or dict.fromkeys(trajectories.steps)
    logging.info(
        "%s: %d prompts x %d images at %d of %d steps to score with the %s %s",
        *(store.name, *trajectories.seeds.shape, len(checkpoints), len(trajectories.steps)),
        *("finetuned" if checkpoint else "base", reward),
    )
    values = np.full((*trajectories.seeds.shape, len(trajectories.steps)), np.nan, np.float32)
    for position, step in enumerate(trajectories.steps):
        if step in checkpoints:
            model = load_reward(
                settings.reward, name=reward, device=runtime.device, checkpoint=checkpoints[step]
            )
            values[:, :, position] = score_step(model, trajectories, step, runtime.batch_size)
    tensor = RewardTensor(
        values,
        trajectories.steps,
        [prompt.id for prompt in trajectories.prompts],
        trajectories.seeds,
        {"reward": reward, "kind": "finetuned" if checkpoint else "base"},
    )
    path = out.with_suffix(".zarr")
    tensor.save(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    write_receipt(
        out,
        {
            "kind": "tensor",
            **tensor.attrs,
            "shape": list(values.shape),
            "files": {str(file.relative_to(path)): sha256_of(file) for file in files},
        },
    )


if __name__ == "__main__":
    run(main)
