"""What the very modules that run cost: their arithmetic counted, or their time measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class _Untracked:
    """Stands for torch's tracker of modules, which are not told apart here.

    That tracker fails in inference mode on modules that are handed a parameter, as Sana's are.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def tflops(function: Callable[[], Any]) -> float:
    """TFLOPs of one call of ``function``: 2 per multiply-add of matrix products and convolutions.

    Attention runs as plain matrix products meanwhile, because torch has no formula for its fused
    CPU kernel and would count nothing.
    """
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() / 1e12


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of one call of ``function``, after one that warms up.

    Work that waits on a GPU, or another accelerator, is part of it.
    """
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            function()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - start)
    return median(taken[1:])
