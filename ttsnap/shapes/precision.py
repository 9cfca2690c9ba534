"""Half precision for the training of the shapes world's models."""

from __future__ import annotations

import torch


def half_precision() -> torch.autocast:
    """Autocast to bfloat16 on CPUs that compute in it; others are slow at it beyond use, and what
    GPUs wait for with models this small is not their arithmetic.
    """
    native = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=native)
