"""The commands about a run: status, estimate, fetch, verify and repair."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ttsnap.config import DEFAULT_YAML, Config, Split, load_config
from ttsnap.errors import UserError
from ttsnap.store.files import Place, about, local_folder, place
from ttsnap.table_cli import AsJson, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from ttsnap.run.memory import Memory
    from ttsnap.run.workload import Prices, Stage


def status(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, or a configuration file.")
    ] = DEFAULT_YAML,
    as_json: AsJson = False,
) -> None:
    """Show how far a run is: jobs done, speed, time and memory, and what is left.

    Reads nothing but the files that finished jobs left, so it never disturbs a run.
    """
    from rich.console import Console

    from ttsnap.run.check import check
    from ttsnap.run.status import SETTINGS, stage_statuses, sum_up, table

    if run.is_dir():
        if not (run / SETTINGS).is_file():
            raise UserError(f"{run}: no {SETTINGS} of a run here; give its configuration file")
        config, folder = load_config(run / SETTINGS), run
    else:
        config = load_config(run)
        check(config)
        folder = Path(config.results, config.run)
    found = stage_statuses(config, folder)
    if as_json:
        print_json({"run": str(folder), "stages": [one.numbers for one in found]})
        return
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
    gpu_memory: Annotated[
        str | None,
        typer.Option(help="Such as 24GB: says what brings a search under it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say before a run what it takes: jobs, images, TFLOPs, GPU hours, bytes, files, and memory.

    Counted from the configuration alone; neither prompts nor weights are read, unless a price is
    neither given under costs nor that of a published reward. Memory is that of a search, whose
    candidates are denoised together, without the finetuning of rewards.

    Example: `ttsnap estimate my.yaml --model flux --speed 400 --gpu-memory 24GB`
    """
    from rich.console import Console

    from ttsnap.diffusion.published import ARCHITECTURES
    from ttsnap.run.check import check
    from ttsnap.run.memory import memory, read_size
    from ttsnap.run.workload import workload

    if model is not None and model not in ARCHITECTURES:
        raise UserError(f"--model {model}: expected one of {', '.join(ARCHITECTURES)}")
    settings = load_config(config)
    check(settings)
    limit = None if gpu_memory is None else read_size(gpu_memory)
    prices = _prices(settings, model)
    sampling = settings.sampling
    stages = workload(settings)
    needs = memory(settings, model)
    if as_json:
        print_json(
            {
                "config": str(config),
                "model": model or settings.model.path,
                "tflops_per_second": speed,
                "stages": [
                    {"stage": name, **_sums(some, prices, speed)}
                    for name, some in _by_row(stages).items()
                ],
                "all": _sums(stages, prices, speed),
                "memory": _memory(needs, limit),
            }
        )
        return
    title = f"{config.name}, {model or settings.model.path}, {sampling.width} x {sampling.height}"
    console = Console()
    console.print(_table(f"{title}, {speed:g} TFLOP/s", stages, prices, speed))
    console.print()
    console.print(_memory_table(needs, _memory(needs, limit)))
    for line in _fits(needs, limit):
        console.print(line, highlight=False)


def _memory(needs: Memory, limit: float | None) -> dict[str, Any]:
    """Bytes by what they are for, on the GPU and in main memory."""
    saved = {} if limit is None else dict(needs.savings(limit))
    return {
        "denoiser": sum(needs.denoisers),
        "text_encoders": sum(needs.texts),
        "autoencoder": needs.vae,
        "verifier": needs.verifier,
        "denoising": needs.denoising,
        "decoding": needs.decoding,
        "gpu": needs.gpu,
        "main": needs.main,
        "savings": saved,
    }


def _memory_table(needs: Memory, sizes: Mapping[str, Any]) -> Table:
    from rich.table import Table

    runtime, model = needs.config.runtime, needs.config.model
    lines = Table(box=None, pad_edge=False)
    lines.add_column("memory")
    lines.add_column("GB", justify="right")
    together = f"{runtime.batch_size} candidates at once"
    verifier = f"verifier {needs.config.search.reward}"
    for name, size in (
        (f"denoiser in {model.quantization or model.dtype}", sizes["denoiser"]),
        ("text encoders", sizes["text_encoders"]),
        ("autoencoder", sizes["autoencoder"]),
        (verifier, sizes["verifier"]),
        (f"denoising, {together}", sizes["denoising"]),
        ("decoding" if runtime.vae_slicing else f"decoding, {together}", sizes["decoding"]),
    ):
        lines.add_row(name, "not known" if size is None else f"{size / 1e9:,.1f}")
    lines.add_row(f"GPU, at once, offload {runtime.offload}", f"{sizes['gpu'] / 1e9:,.1f}")
    lines.add_row("main memory", f"{sizes['main'] / 1e9:,.1f}", style="bold")
    return lines


def _fits(needs: Memory, limit: float | None) -> Iterator[str]:
    """Whether the GPU is large enough, and if not, what helps."""
    if limit is None:
        return
    if needs.gpu <= limit:
        yield f"{needs.gpu / 1e9:.1f} GB fit into {limit / 1e9:g} GB"
        return
    yield f"{needs.gpu / 1e9:.1f} GB do not fit into {limit / 1e9:g} GB; with one of these they do:"
    options = list(needs.savings(limit))
    for text, size in options:
        yield f"  {text}  ({size / 1e9:.1f} GB)"
    if not options:
        yield "  none, not even all together; take a smaller image or model"


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

        architecture = ARCHITECTURES[model] if model else Architecture.of(settings.model)
        counted = model_tflops(
            architecture,
            sampling.height,
            sampling.width,
            sampling.guidance_scale,
            guidance_options=sampling.guidance_options,
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

    lines = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    lines.add_column("stage")
    for heading in ("jobs", "TFLOPs", "GPU hours", "bytes at most", "files"):
        lines.add_column(heading, justify="right")
    for name, some in _by_row(stages).items():
        lines.add_row(name, *_cells(some, prices, speed))
    lines.add_row("all", *_cells(stages, prices, speed), style="bold")
    return lines


def _by_row(stages: list[Stage]) -> dict[str, list[Stage]]:
    """Stages by the rows of the table."""
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.row, []).append(stage)
    return groups


def _sums(stages: list[Stage], prices: Prices, speed: float) -> dict[str, float]:
    tflops = sum(stage.tflops(prices) for stage in stages)
    return {
        "jobs": sum(len(stage.jobs) for stage in stages),
        "tflops": tflops,
        "gpu_hours": tflops / speed / 3600,
        "bytes": sum(stage.bytes for stage in stages),
        "files": sum(stage.files for stage in stages),
    }


def _cells(stages: list[Stage], prices: Prices, speed: float) -> list[str]:
    from rich.filesize import decimal

    sums = _sums(stages, prices, speed)
    tflops, size = sums["tflops"], int(sums["bytes"])
    return [
        f"{sums['jobs']:,}",
        f"{tflops:,.3g}" if tflops < 1000 else f"{tflops:,.0f}",
        f"{sums['gpu_hours']:,.1f}",
        decimal(size) if size else "",
        f"{sums['files']:,}",
    ]


def fetch_weights(
    config: Annotated[Path, typer.Option(help="Configuration of the run.")] = DEFAULT_YAML,
    pin: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG",
            help="Configuration of the run, into which the newest commits are written first where "
            "a hub id has none.",
        ),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A benchmark of `ttsnap bench`, in place of a configuration."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for a benchmark's files, below which one has its name.")
    ] = Path("benchmark-files"),
) -> None:
    """Download the models and rewards of a configuration, and prove them by their hashes.

    Runs afterwards need no network. Gated models want a token in the variable HF_TOKEN.
    """
    if benchmark is not None:
        from ttsnap.bench.published import fetch_benchmark

        print(f"--file {fetch_benchmark(benchmark, out / benchmark)}")
        return
    from ttsnap.run.check import check
    from ttsnap.run.fetch import fetch
    from ttsnap.run.pinning import pin as write_commits

    if pin is not None:
        for line in write_commits(pin):
            print(line)
        config = pin
    settings = load_config(config)
    check(settings)
    for one in fetch(settings):
        print(f"{one.source}: {one.files} files, {one.gigabytes:.2f} GB, licence {one.licence}")
    print(f"{config}: all that it takes from the hub is here")


RunOrStore = Annotated[
    Path,
    typer.Argument(
        parser=local_folder,
        metavar="FOLDER",
        help="Folder of a run, such as results/shapes, or a store beside its receipts.",
    ),
]


def _stores(run: Path) -> list[tuple[Place, Path]]:
    """The trajectory stores of a run, or the one that ``run`` is, each with its receipts."""
    from ttsnap.run.status import SETTINGS

    if run.suffix == ".zarr":
        receipts = run.with_suffix("")
        if not receipts.is_dir():
            raise UserError(f"{receipts}: no receipts of {run} here; give the folder of its run")
        return [(run, receipts)]
    if (run / SETTINGS).is_file():
        # Other settings may be those of another version.
        given = json.loads((run / SETTINGS).read_text())
        if given.get("stores") is not None:
            config = Config(stores=given["stores"], run=given["run"])
            splits = get_args(Split)
            return [(place(config.store(name)), run / "trajectories" / name) for name in splits]
    stores = sorted((run / "trajectories").glob("*.zarr"))
    if not stores:
        raise UserError(f"{run}/trajectories: no stores here, expected the folder of a run")
    return [(store, store.with_suffix("")) for store in stores]


def verify_run(run: RunOrStore) -> None:
    """Prove trajectory stores against their receipts; exit with 1 if anything is wrong."""
    from ttsnap.store.verify import verify

    problems = 0
    for store, receipts in _stores(run):
        found = verify(store, receipts)
        for problem in found:
            print(f"{store}: {problem}")
        problems += len(found)
        if not found:
            print(f"{store}: all blocks are there and as written")
    if problems:
        raise typer.Exit(1)


def repair_run(
    run: RunOrStore,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be taken away.")
    ] = False,
) -> None:
    """Take away what `ttsnap verify` finds damaged, so that the next run makes it anew.

    A damaged shard goes together with its receipt. `snakemake` then generates the blocks that lack
    theirs. They come out as they were, receipts included, so that nothing is redone after them.
    Exits with 1 if something is wrong that this does not mend.
    """
    from ttsnap.store.verify import repair, verify

    gone = left = 0
    for store, receipts in _stores(run):
        problems = verify(store, receipts)
        for problem in problems:
            print(f"{store}: {problem}")
        plan = repair(store, receipts, problems)
        for file in plan.files:
            if not dry_run:
                with about(file):
                    file.unlink()
            print(f"{'would remove' if dry_run else 'removed'} {file}")
        for problem in plan.left:
            print(f"{store}: not mended by this: {problem}", file=sys.stderr)
        gone += len(plan.files)
        left += len(plan.left)
    if gone and not dry_run:
        print("now run `snakemake` as before: it makes just this anew")
    if left:
        raise typer.Exit(1)
