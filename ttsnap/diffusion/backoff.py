"""Batches as large as memory allows."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ttsnap.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Backoff:
    """Runs batches, in halves from when on memory runs out.

    Attributes:
        size: candidates that are tried at once; never grows.
    """

    size: int

    def map(self, function: Callable[[range], T], count: int) -> list[T]:
        """``function`` of consecutive ranges of at most ``size`` that make up ``range(count)``.

        Raises:
            UserError: memory runs out with a single candidate.
        """
        import torch

        results: list[T] = []
        start = 0
        while start < count:
            some = range(start, min(start + self.size, count))
            try:
                results.append(function(some))
                start = some.stop
                continue
            except torch.OutOfMemoryError as error:
                reason = str(error).partition("\n")[0]
            # Only here is what the failed call held no longer kept alive by its traceback.
            if len(some) == 1:
                raise UserError(
                    f"out of memory with a single candidate ({reason}): try model.dtype bfloat16, "
                    "model.vae_tiling or runtime.offload"
                )
            self.size = len(some) // 2
            log.warning("out of memory with a batch of %d: trying %d", len(some), self.size)
            gc.collect()  # an error that came through a future is part of a cycle
            torch.cuda.empty_cache()
        return results
