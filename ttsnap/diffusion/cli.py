"""The command ``ttsnap costs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttsnap.config import DEFAULT_YAML, Sampling, load_config
from ttsnap.errors import UserError
from ttsnap.table_cli import AsJson, print_json

if TYPE_CHECKING:
    from rich.table import Table


def costs(
    model: Annotated[
        str,
        typer.Argument(help="Name of a published model (sdxl, flux, …), or a configuration file."),
    ] = str(DEFAULT_YAML),
    height: Annotated[int | None, typer.Option(help="Pixels.", min=8)] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.", min=8)] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.", min=1)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Count what a candidate costs, in TFLOPs with 2 per multiply-add, from configs alone.

    A name stands for a published model at 512 x 512 pixels, or the size that it was made for, 20
    steps and guidance 5, without its weights; `all` for a Markdown table of them; a configuration
    file for its own model, rewards, settings and given prices.

    Example: `ttsnap costs sdxl --height 1024 --width 1024`
    """
    from rich.console import Console

    from ttsnap.diffusion.architectures import (
        ARCHITECTURES,
        REWARDS,
        Architecture,
        model_tflops,
        reward_tflops,
    )
    from ttsnap.run.check import check
    from ttsnap.searching.pricing import score_tflops

    if model == "all":
        rows, scores = _published(guidance or 5.0)
        if as_json:
            print_json({"unit": "TFLOPs", "models": rows, "rewards": scores})
        else:
            print(_overview(rows, scores))
        return
    if model in ARCHITECTURES:
        usual_height, usual_width, frames = ARCHITECTURES[model].sizes[0]
        height, width = height or usual_height, width or usual_width
        guidance, steps = guidance or 5.0, steps or 20
        counted = model_tflops(ARCHITECTURES[model], height, width, guidance, frames)
        seen = min(frames, Sampling().scored_frames)
        scores = {name: seen * reward_tflops(name) for name in REWARDS}
    elif Path(model).is_file():
        settings = load_config(model)
        check(settings)
        sampling = settings.sampling
        height, width = height or sampling.height, width or sampling.width
        frames = sampling.frames
        guidance, steps = guidance or sampling.guidance_scale, steps or sampling.steps
        given = settings.costs
        if given.unit != "TFLOPs":
            raise UserError(f"{model}: costs.unit is {given.unit}; only TFLOPs can be counted")
        architecture, options = Architecture.of(settings.model), sampling.guidance_options
        counted = model_tflops(architecture, height, width, guidance, frames, options)
        counted |= {part: price for part in counted if (price := getattr(given, part)) is not None}
        scores = {name: score_tflops(settings, name, height, width) for name in settings.rewards}
    else:
        raise UserError(f"{model}: neither a configuration file nor {', '.join(ARCHITECTURES)}")
    if as_json:
        whole = {
            name: steps * counted["denoise"] + counted["decode"] + score
            for name, score in scores.items()
        }
        print_json(
            {
                "model": model,
                "height": height,
                "width": width,
                "frames": frames,
                "guidance_scale": guidance,
                "steps": steps,
                "unit": "TFLOPs",
                **counted,
                "rewards": scores,
                "full_run": whole,
            }
        )
        return
    title = f"{model}, {_size(width, height, frames)} pixels, guidance {guidance:g}"
    console = Console()
    console.print(title, style="bold", highlight=False)
    console.print(_table(counted, scores, steps))


def _table(counted: dict[str, float], scores: dict[str, float], steps: int) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("TFLOPs", justify="right")
    table.add_column("evaluations", justify="right", style="dim")
    evaluation = counted["denoise"]
    rows = {
        "evaluation with guidance": evaluation,
        "decode": counted["decode"],
        "preview decode": counted["preview"],
    }
    rows |= {f"score, {name}": score for name, score in scores.items()}
    for name, score in scores.items():
        rows[f"full run, {steps} steps, {name}"] = steps * evaluation + counted["decode"] + score
    for name, value in rows.items():
        table.add_row(name, f"{value:.4g}", f"{value / evaluation:.3g}")
    return table


def _size(width: int, height: int, frames: int) -> str:
    return f"{width} x {height}" + (f" x {frames}" if frames > 1 else "")


def _published(guidance: float) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The published models at their sizes, and the rewards, in TFLOPs."""
    from ttsnap.diffusion.architectures import (
        ARCHITECTURES,
        REWARDS,
        model_tflops,
        parameters,
        reward_tflops,
    )

    rows = [
        {
            "model": name,
            "parameters": parameters(architecture)[0],
            "height": height,
            "width": width,
            "frames": frames,
            **model_tflops(architecture, height, width, guidance, frames),
        }
        for name, architecture in ARCHITECTURES.items()
        for height, width, frames in architecture.sizes
    ]
    return rows, {name: reward_tflops(name) for name in REWARDS}


def _overview(rows: list[dict[str, Any]], scores: dict[str, float]) -> str:
    """The same as Markdown tables."""
    lines = [
        "| model | parameters | pixels | evaluation | decode | preview |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        billions = row["parameters"] / 1e9
        size = _size(row["width"], row["height"], row["frames"])
        cells = " | ".join(f"{row[part]:.4g}" for part in ("denoise", "decode", "preview"))
        lines.append(f"| {row['model']} | {billions:.2f} B | {size} | {cells} |")
    lines += ["", "| reward | score |", "|---|--:|"]
    lines += [f"| {name} | {score:.3g} |" for name, score in scores.items()]
    return "\n".join(lines)
