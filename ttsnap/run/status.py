"""How far a run is, and what it took so far, from what its finished jobs left."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttsnap.errors import UserError
from ttsnap.progress import clock
from ttsnap.run.workload import Prices, Stage, workload
from ttsnap.store.receipts import read_receipt

if TYPE_CHECKING:
    from rich.table import Table

    from ttsnap.config import Config

Span = tuple[float, float]

SETTINGS = "config.json"
"""Where the workflow writes the configuration of a run when it starts."""


@dataclass(frozen=True)
class StageStatus:
    """Where a stage stands.

    Attributes:
        stage: what it is to do.
        done: jobs that are finished.
        seconds: of these jobs, added up; of the last attempt where one was interrupted.
        memory: the most that one of them took, bytes resident.
        tflops: what the stage computes when all is done; None where prices are not known yet.
        left: estimate of the seconds of the jobs that are not finished; None where nothing tells.
        spans: when these jobs began and ended, seconds since the epoch.
    """

    stage: Stage
    done: int
    seconds: float
    memory: float
    tflops: float | None
    left: float | None
    spans: tuple[Span, ...]

    @property
    def share(self) -> float:
        """Finished share of the jobs, in [0, 1]."""
        return self.done / len(self.stage.jobs)

    @property
    def rate(self) -> float | None:
        """Images or searches per second of job time; None where there are none."""
        counted = self.stage.count * self.share
        return counted / self.seconds if counted and self.seconds else None

    @property
    def numbers(self) -> dict[str, Any]:
        """JSON types, None where nothing is known; seconds, and bytes of memory."""
        return {
            "stage": self.stage.name,
            "jobs": len(self.stage.jobs),
            "done": self.done,
            "work": self.stage.count,
            "unit": self.stage.unit,
            "per_second": self.rate,
            "seconds": self.seconds,
            "memory": self.memory,
            "tflops": self.tflops,
            "left": self.left,
        }


def stage_statuses(config: Config, folder: Path) -> list[StageStatus]:
    """Where every stage of a run stands.

    A stage that has begun is expected to go on as it did; one that has not, to compute as fast as
    the others did together.

    Args:
        config: of the run.
        folder: of the run; it need not exist.
    """
    stages = workload(config)
    prices = _prices(config, folder)
    found = [_measured(stage, folder) for stage in stages]
    computed = spent = 0.0
    for stage, (done, seconds, *_) in zip(stages, found, strict=True):
        if prices and stage.count and seconds:
            computed += stage.tflops(prices) * done / len(stage.jobs)
            spent += seconds
    statuses = []
    for stage, (done, seconds, memory, spans) in zip(stages, found, strict=True):
        missing = len(stage.jobs) - done
        tflops = stage.tflops(prices) if prices else None
        left = None
        if not missing:
            left = 0.0
        elif done and seconds:
            left = seconds / done * missing
        elif tflops and computed:
            left = tflops * spent / computed
        statuses.append(StageStatus(stage, done, seconds, memory, tflops, left, spans))
    return statuses


def _measured(stage: Stage, folder: Path) -> tuple[int, float, float, tuple[Span, ...]]:
    """Finished jobs of a stage, their seconds, the most memory one took, and when they ran."""
    done = [job for job in stage.jobs if (folder / job.output).is_file()]
    marks = [mark for job in done if (mark := _benchmark(folder / job.benchmark))]
    return (
        len(done),
        sum(mark["s"] for mark in marks),
        max((mark["max_rss"] for mark in marks), default=0.0) * 2**20,
        tuple((mark["end"] - mark["s"], mark["end"]) for mark in marks),
    )


def _benchmark(path: Path) -> dict[str, Any] | None:
    """What Snakemake measured of a job; a job of a few ms has no memory, and NA there."""
    try:
        mark = json.loads(path.read_text()) | {"end": path.stat().st_mtime}
        keys = ("s", "max_rss", "end")
        return {key: float(mark[key]) if mark[key] != "NA" else 0.0 for key in keys}
    except (OSError, ValueError, KeyError):
        return None


def _prices(config: Config, folder: Path) -> Prices | None:
    """What the run has measured, in TFLOPs; None before it has, or where it measures seconds."""
    try:
        model = read_receipt(folder / "model.json")
        costs = {
            name: read_receipt(folder / f"rewards/{name}/cost.json")
            for name in config.pipeline_rewards
        }
    except UserError:
        return None
    if config.costs.unit != "TFLOPs":
        return None
    scores = {name: cost["score"] for name, cost in costs.items()}
    return Prices(model["denoise"], model["decode"], scores)


def rows(statuses: Iterable[StageStatus]) -> list[dict[str, Any]]:
    """The table of the report, rewards together: stage, jobs, seconds, memory_gb, tflops.

    Seconds and TFLOPs are added up, memory is the most of one job.
    """
    found: dict[str, dict[str, Any]] = {}
    for one in statuses:
        row = found.setdefault(
            one.stage.row,
            {"stage": one.stage.row, "jobs": 0, "seconds": 0.0, "memory_gb": 0.0, "tflops": 0.0},
        )
        row["jobs"] += one.done
        row["seconds"] += one.seconds
        row["memory_gb"] = max(row["memory_gb"], one.memory / 2**30)
        row["tflops"] += math.nan if one.tflops is None else one.tflops * one.share
    return list(found.values())


def table(statuses: list[StageStatus], title: str) -> Table:
    """Where a run stands, for the terminal."""
    from rich.table import Table

    lines = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    lines.add_column("stage")
    for heading in ("jobs", "work", "per s", "time", "memory", "left"):
        lines.add_column(heading, justify="right")
    for one in statuses:
        total = len(one.stage.jobs)
        lines.add_row(
            one.stage.name,
            f"{one.done}/{total}",
            f"{one.stage.count:,} {one.stage.unit}" if one.stage.count else "",
            f"{one.rate:.3g}" if one.rate else "",
            clock(one.seconds) if one.seconds else "",
            f"{one.memory / 2**30:.1f} GB" if one.memory else "",
            "" if one.done == total else "?" if one.left is None else clock(one.left),
            style="dim" if one.done == total else "bold" if one.done else "",
        )
    return lines


def sum_up(statuses: list[StageStatus]) -> str:
    """One line: how much of the run is done, by the clock, and what is left of it at this pace."""
    done, jobs = (
        sum(counts)
        for counts in zip(*((one.done, len(one.stage.jobs)) for one in statuses), strict=True)
    )
    spent = sum(one.seconds for one in statuses)
    busy = _covered(span for one in statuses for span in one.spans)
    line = f"{done} of {jobs} jobs done in {clock(busy)}"
    if round(spent) > round(busy):
        line += f" by the clock, {clock(spent)} of jobs"
    if done == jobs:
        return line
    unknown = any(one.left is None for one in statuses)
    left = sum(one.left or 0.0 for one in statuses)
    if not left:
        return f"{line}; nothing to tell yet how long the others take"
    return f"{line}, {'more than ' if unknown else 'about '}{clock(left * busy / spent)} left"


def _covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of some spans was."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
