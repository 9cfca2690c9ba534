"""Counting the arithmetic of the very modules that run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def tflops(function: Callable[[], Any]) -> float:
    """TFLOPs of one call of ``function``: 2 per multiply-add of matrix products and convolutions.

    Attention runs as plain matrix products meanwhile, because torch has no formula for its fused
    CPU kernel and would count nothing.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        function()
    return counter.get_total_flops() / 1e12
