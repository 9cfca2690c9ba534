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
        results: list[T] = []
        start = 0
        while start < count:
            some = range(start, min(start + self.size, count))
            if result := self._attempt(function, some):
                results += result
                start = some.stop
        return results

    def largest(self, function: Callable[[range], T], count: int) -> T:
        """``function`` of the first of ``range(count)``, as many as memory allows.

        Raises:
            UserError: memory runs out with a single candidate.
        """
        while True:
            if result := self._attempt(function, range(min(self.size, count))):
                return result[0]

    def _attempt(self, function: Callable[[range], T], some: range) -> list[T]:
        """What ``function`` gives; nothing, and half the size from now on, if memory runs out."""
        import torch

        try:
            return [function(some)]
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
        return []
