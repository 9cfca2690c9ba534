"""What a terminal shows of a search: live while it runs, in one line when it is done."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ttsnap.progress import clock

if TYPE_CHECKING:
    from pathlib import Path

    from ttsnap.searching.result import SearchResult
    from ttsnap.searching.task import Progress

ACCENT = "blue"


class SearchView:
    """A live picture of a search; rich asks it how it looks several times a second.

    Attributes:
        progress: what the method last reported; None before.
        stopping: whether the user has asked for the best so far.
    """

    def __init__(self, text: str, heading: str, steps: int, place: str = "") -> None:
        """
        Args:
            text: the prompt.
            heading: method, reward and the like, in a line.
            steps: of the sampler.
            place: of this prompt among several, such as 2/5.
        """
        self.text, self.heading, self.steps, self.place = text, heading, steps, place
        self.progress: Progress | None = None
        self.stopping = False
        self._began = time.monotonic()

    def observe(self, progress: Progress) -> None:
        """Take in what a method reports."""
        self.progress = progress

    def __rich__(self) -> RenderableType:
        title = Table.grid(expand=True, padding=(0, 1))
        title.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        title.add_column(justify="right", no_wrap=True)
        title.add_row(Text(_line(self.text), "bold"), Text(self.place, "dim"))
        heading = Text(self.heading, "dim")
        if self.stopping:
            heading = Text("stopping, the best so far is kept; Ctrl-C again ends it now", "yellow")
        return Group(title, heading, Padding(self._facts(), (0, 0, 0, 2)), self._bar())

    def _facts(self) -> Table:
        now = self.progress
        facts = {"step": "–", "alive": "–", "best": "–", "round": "–"}
        if now:
            facts = {
                "step": f"{now.step + 1}/{self.steps}",
                "alive": f"{now.alive} of {now.n}",
                "best": "–" if now.best is None else f"{now.best:.4g}",
                "round": str(now.round),
            }
        row = Table.grid(padding=(0, 1))
        cells = []
        for name, value in facts.items():
            row.add_column(style="dim")
            row.add_column(min_width=9 if name == "alive" else 6)
            cells += [Text(name), Text(value, f"bold {ACCENT}" if name == "best" else "bold")]
        row.add_column(style="dim", no_wrap=True)
        row.add_row(*cells, Text(now.message if now else ""))
        return row

    def _bar(self) -> Table:
        spent, budget, unit = 0.0, 1.0, ""
        if self.progress:
            spent, budget, unit = self.progress.spent, self.progress.budget, self.progress.unit
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(width=1)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        row.add_column(justify="right", no_wrap=True, style="dim")
        row.add_row(
            "",
            ProgressBar(total=budget, completed=min(spent, budget), complete_style=ACCENT),
            f"{spent:.4g} of {budget:.4g} {unit}" if unit else "",
            clock(time.monotonic() - self._began),
        )
        return row


@contextmanager
def shown(view: SearchView, console: Console) -> Iterator[None]:
    """Show ``view`` while the body runs, on a terminal or in a notebook."""
    if not (console.is_terminal or console.is_jupyter):
        yield
        return
    with Live(view, console=console, refresh_per_second=8, transient=True):
        yield


@contextmanager
def interruptible(stop: Event, view: SearchView) -> Iterator[None]:
    """Let the first Ctrl-C set ``stop``, which ``view`` says, and the second one stop the body.

    Raises:
        KeyboardInterrupt: at the second.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.set()
        view.stopping = True

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def tell(
    result: SearchResult, text: str, folder: Path, console: Console, whole: float | None = None
) -> None:
    """Print what a finished search found, in three lines.

    Args:
        result: of it.
        text: the prompt.
        folder: where it was saved.
        console: to print on.
        whole: what a single image costs from start to end, in the unit of the budget.
    """
    finished = sum(bool(candidate.rewards) for candidate in result.candidates)
    tried = f"{finished} of {len(result.candidates)} candidates finished"
    if whole:
        tried += f" at the price of {result.spent / whole:.2g} whole images"
    facts = [
        f"seed {result.seed}",
        tried,
        f"{result.nfe:g} evaluations",
        f"{result.spent:.4g} of {result.budget:.4g} {result.unit}",
        f"{result.seconds:.1f} s",
    ]
    skipped = {"NFE": 2, "seconds": 4}.get(result.unit)  # said by the budget already
    rewards = result.candidates[result.winner].rewards
    scores = ", ".join(f"{name} {score:.4g}" for name, score in rewards.items())
    mark = ("■ ", "yellow") if result.interrupted else ("✓ ", "green")
    console.print(
        Text.assemble(mark, (_line(text), "bold")), no_wrap=True, overflow="ellipsis", crop=True
    )
    kept = [fact for place, fact in enumerate(facts) if place != skipped]
    console.print(
        Text.assemble("  ", (scores, f"bold {ACCENT}"), "; " + ", ".join(kept)), soft_wrap=True
    )
    console.print(Text(f"  {folder}/best.png", "dim"), soft_wrap=True)


def refuse(text: str, reason: str, console: Console) -> None:
    """Print why a prompt has no image, in two lines."""
    console.print(
        Text.assemble(("✗ ", "red"), (_line(text), "bold")), no_wrap=True, overflow="ellipsis"
    )
    console.print(Text(f"  {reason}", "dim"), soft_wrap=True)


def _line(text: str) -> str:
    """``text`` without line breaks."""
    return " ".join(text.split())
