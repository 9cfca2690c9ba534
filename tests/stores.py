"""A small trajectory store that holds what its tests know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ttsnap.prompts import Prompt
from ttsnap.store.receipts import block_receipt, write_receipt
from ttsnap.store.trajectories import TrajectoryStore, create_store, open_store, store_receipt

PROMPTS = [
    Prompt(f"p{i}", text, "", i)
    for i, text in enumerate(["a cat 🐈", 'a "quoted" / slashed\nprompt', "x" * 1000, "dog", "owl"])
]
SEEDS = np.random.default_rng(0).integers(0, 2**63, (5, 3))
STEPS = [1, 4, 7]
SIGMAS = np.array([9.5, 1.1, 0], np.float32)
BLOCK = 2
IMAGES = np.random.default_rng(1).integers(0, 256, (5, 3, 3, 8, 12, 3), dtype=np.uint8)


def make_store(path: Path, **changes: object) -> TrajectoryStore:
    arguments: dict[str, object] = {
        "prompts": PROMPTS,
        "seeds": SEEDS,
        "steps": STEPS,
        "sigmas": SIGMAS,
        "height": 8,
        "width": 12,
        "block": BLOCK,
        "settings": {"model": {"path": "tiny", "revision": None}, "guidance_scale": 3.5},
    }
    create_store(path, **(arguments | changes))  # type: ignore[arg-type]
    return open_store(path)


def fill(store: TrajectoryStore, receipts: Path, images: np.ndarray = IMAGES) -> None:
    write_receipt(receipts / "init.json", store_receipt(store))
    for block in range(store.blocks):
        write_block(store, block, receipts, images)


def write_block(store: TrajectoryStore, block: int, receipts: Path, images: np.ndarray) -> None:
    prompts = store.block_prompts(block)
    fields = store.write_block(block, lambda s: images[prompts.start : prompts.stop, :, s])
    write_receipt(block_receipt(receipts, block), fields)
