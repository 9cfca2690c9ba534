"""Progress of long work: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
INTERVAL = 10.0  # seconds between the lines of a log


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items of ``iterable`` and show on stderr how far the work has come.

    Args:
        iterable: anything; an item counts as done when the next one is asked for.
        description: the work in a few words.
        total: number of items; taken from ``iterable`` where it has a length.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        return _bar(iterable, description, total)
    return _lines(iterable, description, total)


def _bar(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(iterable, total=total, description=description)


def _lines(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    start = shown = time.monotonic()
    done = 0
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= INTERVAL and done != total:
            shown = now
            _say(_line(description, done, total, now - start))
    of_total = f"/{total}" if total else ""
    elapsed = time.monotonic() - start
    speed = f", {_speed(done / elapsed)}" if done else ""
    _say(f"{description} {done}{of_total} done in {clock(elapsed)}{speed}")


def _line(description: str, done: int, total: int | None, elapsed: float) -> str:
    """Such as ``denoise 40/200 20 % 3.1/s, 0:52 left``."""
    rate = done / elapsed
    if not total:
        return f"{description} {done} {_speed(rate)}"
    left = clock((total - done) / rate)
    return f"{description} {done}/{total} {100 * done // total} % {_speed(rate)}, {left} left"


def _speed(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, the hours only where there are any."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """Let libraries report what goes wrong only; for programs, before they are imported."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for client in ("aiobotocore", "botocore"):
        logging.getLogger(client).setLevel(logging.WARNING)
    # torchao tells of each kernel that is not for this machine, and torch of what torchao does.
    for importing in ("torchao", "torch.utils._pytree"):
        logging.getLogger(importing).setLevel(logging.ERROR)
