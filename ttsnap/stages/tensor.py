"""Reward tensor of a split: every stored step scored by the base reward or by its checkpoint.

A split of many images is scored by several jobs (``--block``), and their scores put together. What
a killed job had finished, a block of the store at a step, lies in ``<out>.parts`` and is taken up.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from ttsnap.run.weights import weight_stamps
from ttsnap.stages import (
    PreviewReceipt,
    RewardName,
    RuntimeOption,
    StoreOption,
    json_option,
    load_preview,
    run,
)
from ttsnap.stages.rewards import Settings
from ttsnap.store.files import atomic, sha256_of
from ttsnap.store.receipts import read_receipt, write_receipt
from ttsnap.store.tensors import RewardTensor
from ttsnap.store.trajectories import TrajectoryStore, open_store

if TYPE_CHECKING:
    from ttsnap.rewards import Reward
    from ttsnap.rewards.verifiers import SharedReward

VERSION = 1


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    store: StoreOption,
    reward: RewardName,
    out: Annotated[
        Path, typer.Option(help="Receipt of the tensor; scores where --block is given.")
    ],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="Receipts of NARF checkpoints, each for its own step; none: base."),
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Score no more than this part of the split.", min=0)
    ] = None,
    preview: PreviewReceipt = None,
) -> None:
    from ttsnap.rewards.tensor import blocks_per_job, score_steps

    stored = open_store(store)
    receipts = {read_receipt(path)["step"]: path for path in checkpoint or []}
    folders = {step: path.with_suffix("") for step, path in receipts.items()}
    kind = "finetuned" if receipts else "base"
    steps = [step for step in stored.steps if step in receipts or not receipts]
    prompts, images = settings.split.prompts_per_job, stored.images_per_prompt
    per_job = blocks_per_job(prompts, images, len(stored.steps))
    jobs = math.ceil(stored.blocks / per_job)

    @cache
    def shared() -> SharedReward:
        from ttsnap.rewards.verifiers import SharedReward

        return SharedReward(settings.reward, name=reward, device=runtime.device)

    def load(step: int) -> Reward:
        return shared().verifier(folders.get(step))

    if block is None and jobs > 1:
        parts = [out.with_suffix("") / f"block_{job:04d}.npy" for job in range(jobs)]
        scores = np.concatenate([np.load(part) for part in parts])
    else:
        blocks = range(stored.blocks)[(block or 0) * per_job :][:per_job]
        logging.info(
            "%s, %d of %d blocks: %d images a prompt at %d of %d steps to score with the %s %s",
            *(store.name, len(blocks), stored.blocks, images, len(steps), len(stored.steps)),
            *(kind, reward),
        )
        unfinished = out.with_suffix(".parts") / _fingerprint(settings, stored, receipts, preview)
        scores = score_steps(
            load, stored, steps, blocks, unfinished, runtime.batch_size, load_preview(preview)
        )
    if block is not None:
        with atomic(out) as file:
            np.save(file, scores)
    else:
        _write(out, stored, steps, scores, {"reward": reward, "kind": kind})
    shutil.rmtree(out.with_suffix(".parts"), ignore_errors=True)


def _fingerprint(
    settings: Settings,
    store: TrajectoryStore,
    checkpoints: dict[int, Path],
    preview: Path | None,
) -> str:
    """Of what decides the scores beside the images."""
    known = {
        "store": store.fingerprint,
        "reward": settings.reward.model_dump(mode="json"),
        "version": settings.version,
        "weights": weight_stamps(settings.reward),
        "preview": read_receipt(preview)["sha256"] if preview else None,
        "checkpoints": {step: read_receipt(path)["files"] for step, path in checkpoints.items()},
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _write(
    out: Path,
    store: TrajectoryStore,
    steps: Sequence[int],
    scores: np.ndarray,
    attributes: dict[str, str],
) -> None:
    """Write the tensor and its receipt; steps without scores are NaN."""
    values = np.full((*store.seeds.shape, len(store.steps)), np.nan, np.float32)
    values[:, :, [store.step_position(step) for step in steps]] = scores
    path = out.with_suffix(".zarr")
    RewardTensor(values, store.steps, store.prompt_ids, store.seeds, attributes).save(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    write_receipt(
        out,
        {
            "kind": "tensor",
            **attributes,
            "shape": list(values.shape),
            "files": {str(file.relative_to(path)): sha256_of(file) for file in files},
        },
    )


if __name__ == "__main__":
    run(main)
