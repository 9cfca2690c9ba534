"""The commands ``ttsnap status`` and ``ttsnap estimate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttsnap.config import DEFAULT_YAML, load_config
from ttsnap.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from ttsnap.config import Config
    from ttsnap.run.workload import Prices, Stage


def status(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, or a configuration file.")
    ] = DEFAULT_YAML,
) -> None:
    """Show how far a run is: jobs done, speed, time and memory, and what is left.

    Reads nothing but the files that finished jobs left, so it never disturbs a run.
    """
    from rich.console import Console

    from ttsnap.run.check import check
    from ttsnap.run.status import SETTINGS, standings, sum_up, table

    if run.is_dir():
        if not (run / SETTINGS).is_file():
            raise UserError(f"{run}: no {SETTINGS} of a run here; give its configuration file")
        config, folder = load_config(run / SETTINGS), run
    else:
        config = load_config(run)
        check(config)
        folder = Path(config.results, config.run)
    found = standings(config, folder)
    console = Console()
    console.print(table(found, str(folder)))
    console.print(sum_up(found), highlight=False)


def estimate(
    config: Annotated[Path, typer.Argument(help="Configuration file.")] = DEFAULT_YAML,
    model: Annotated[
        str | None,
        typer.Option(help="Count with a model of `ttsnap costs` in place of the configuration's."),
    ] = None,
    speed: Annotated[
        float, typer.Option(help="TFLOP/s that the GPU keeps up in this work.", min=1e-6)
    ] = 200.0,
) -> None:
    """Say before a run what it takes: jobs, images, TFLOPs, GPU hours, bytes and files.

    Counted from the configuration alone; neither prompts nor weights are read, unless a price is
    neither given under costs nor that of a published reward.

    Example: `ttsnap estimate my.yaml --model flux --speed 400`
    """
    from rich.console import Console

    from ttsnap.run.check import check
    from ttsnap.run.workload import workload

    settings = load_config(config)
    check(settings)
    prices = _prices(settings, model)
    sampling = settings.sampling
    title = f"{config.name}, {model or settings.model.path}, {sampling.width} x {sampling.height}"
    Console().print(_table(f"{title}, {speed:g} TFLOP/s", workload(settings), prices, speed))


def _prices(settings: Config, model: str | None) -> Prices:
    """TFLOPs as the configuration gives them, or counted."""
    from ttsnap.run.workload import Prices
    from ttsnap.searching.pricing import score_tflops

    costs, sampling = settings.costs, settings.sampling
    if costs.unit != "TFLOPs":
        raise UserError(f"costs.unit is {costs.unit}; only TFLOPs can be counted")
    denoise, decode = costs.denoise, costs.decode
    if denoise is None or decode is None:
        from ttsnap.diffusion.architectures import ARCHITECTURES, Architecture, model_tflops

        if model is not None and model not in ARCHITECTURES:
            raise UserError(f"--model {model}: expected one of {', '.join(ARCHITECTURES)}")
        architecture = ARCHITECTURES[model] if model else Architecture.of(settings.model)
        counted = model_tflops(
            architecture, sampling.height, sampling.width, sampling.guidance_scale
        )
        denoise = counted["denoise"] if denoise is None else denoise
        decode = counted["decode"] if decode is None else decode
    scores = {
        name: score_tflops(settings, name, sampling.height, sampling.width)
        for name in settings.pipeline_rewards
    }
    return Prices(denoise, decode, scores)


def _table(title: str, stages: list[Stage], prices: Prices, speed: float) -> Table:
    from rich.table import Table

    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.row, []).append(stage)
    lines = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    lines.add_column("stage")
    for heading in ("jobs", "TFLOPs", "GPU hours", "bytes at most", "files"):
        lines.add_column(heading, justify="right")
    for name, some in groups.items():
        lines.add_row(name, *_cells(some, prices, speed))
    lines.add_row("all", *_cells(stages, prices, speed), style="bold")
    return lines


def _cells(stages: list[Stage], prices: Prices, speed: float) -> list[str]:
    from rich.filesize import decimal

    tflops = sum(stage.tflops(prices) for stage in stages)
    size = sum(stage.bytes for stage in stages)
    return [
        f"{sum(len(stage.jobs) for stage in stages):,}",
        f"{tflops:,.3g}" if tflops < 1000 else f"{tflops:,.0f}",
        f"{tflops / speed / 3600:,.1f}",
        decimal(size) if size else "",
        f"{sum(stage.files for stage in stages):,}",
    ]
