"""How many threads of the CPU an evaluation is worth."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler

WORTH = 0.01
"""TFLOPs of an evaluation that are worth a thread of their own.

Threads wait for each other after every layer; where layers are small, and other programs busy,
they wait longer than they work.
"""


def use_threads(sampler: Sampler, threads: int | None = None) -> None:
    """Let torch compute with as many threads as a sampler on the CPU is worth.

    Args:
        sampler: whose evaluations are the bulk of the work.
        threads: None chooses, unless ``OMP_NUM_THREADS`` has chosen.
    """
    if threads is None:
        if sampler.device.type != "cpu" or "OMP_NUM_THREADS" in os.environ:
            return
        threads = max(1, int(sampler.costs()["denoise"] / WORTH))
        threads = min(threads, torch.get_num_threads())
    torch.set_num_threads(threads)
