"""A compiled denoiser, which is asked about batches of few sizes only."""

from __future__ import annotations

from typing import Any

VARIANTS = 64
"""Code that is kept of a denoiser: of each size, with guidance and without, for texts of other
lengths. Beyond that it would run as if it were not compiled."""


def compile_denoiser(denoiser: Any, backend: str = "inductor") -> None:
    """Have a denoiser compiled at its first call of each shape.

    Shapes are known to the compiler: code for any number of candidates is slower, and some kinds of
    attention have none.
    """
    denoiser.compile(dynamic=False, recompile_limit=VARIANTS, backend=backend)


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Numbers of candidates, ascending, of which batches are: ``largest``, half of it, … and 1.

    A batch that shrinks is so never filled up to twice its size.
    """
    sizes = {1}
    while largest > 1:
        sizes.add(largest)
        largest = (largest + 1) // 2
    return tuple(sorted(sizes))
