"""What the very modules that run cost: their arithmetic counted, or their time measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The one fused kernel for which torch has no formula and would count nothing."""


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of the shapes of the three."""
    return sdpa_flop_count(query, key, value)


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

    Fused attention counts as its two matrix products, and stays fused: as those it would need
    memory for all pairs of tokens.
    """
    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention})
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    with torch.inference_mode(), counter:
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
