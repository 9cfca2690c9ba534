"""The command ``ttsnap bench``."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ttsnap.config import ROOT, Config, RewardSettings, load_config
from ttsnap.errors import UserError, did_you_mean

console = Console(stderr=True)

CLIP = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
"""What names colours for GenEval, where the judge's options do not say."""


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="shapes, geneval, geneval2, drawbench, partiprompts, hpdv2, t2i-compbench or "
            "unigenbench."
        ),
    ] = "shapes",
    out: Annotated[
        Path, typer.Option(help="Folder of the benchmark; the same one goes on with it.")
    ] = Path("results/bench"),
    file: Annotated[
        Path | None,
        typer.Option(help="The published file, or folder of files; docs/bench.md says which."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="As of `ttsnap search`; so are those that follow.")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="PATH[:SCALE]; may be repeated.")] = None,
    components: Annotated[str | None, typer.Option(help="Of a model in a single file.")] = None,
    config: Annotated[Path | None, typer.Option(help="Model, sampling, rewards, run.")] = None,
    reward: Annotated[str | None, typer.Option(help="What searches.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, mps, cuda, …")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Candidates at once.")] = None,
    seed: Annotated[int, typer.Option(help="Root of the candidates' noise seeds.")] = 0,
    methods: Annotated[
        str, typer.Option(help="Methods of search, divided by commas.")
    ] = "best-of-n,ttsp",
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Budgets of a prompt, divided by commas, such as 2000tflops,60s; by default those "
            "of search.budgets of the configuration."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Model for the benchmark's own judge: a reward of the configuration, or "
            "KIND:PATH[@COMMIT]; none: only rewards judge."
        ),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Another reward that judges, and does not search.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="At most so many, from all over the file.")
    ] = None,
    prompts_per_job: Annotated[int, typer.Option(min=1, help="Of a shard.")] = 32,
    cores: Annotated[str, typer.Option(help="Of Snakemake: how many jobs at once.")] = "1",
    profile: Annotated[
        str | None, typer.Option(help="Of Snakemake, such as slurm: where the jobs run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say which jobs would run.")
    ] = False,
) -> None:
    """Compare search methods on a public benchmark, at the same budgets.

    Writes, in --out, **results.parquet**, **table.md** and the page **bench.html**. When it was
    stopped, the same command goes on after the prompts that are finished.

    Example: `ttsnap bench shapes --methods best-of-n,ttsp --budgets 0.016,0.031 --prompts 8 --out
    results/bench`
    """
    from ttsnap.bench.published import PUBLISHED
    from ttsnap.bench.readers import BENCHMARKS, read_items
    from ttsnap.bench.settings import Bench, write_bench
    from ttsnap.run.request import request_of

    if name not in BENCHMARKS:
        hint = did_you_mean(name, BENCHMARKS) or f"; expected one of {', '.join(BENCHMARKS)}"
        raise UserError(f"benchmark {name}: unknown{hint}")
    snakefile = ROOT / "rules/bench.smk"
    if not snakefile.exists():
        raise UserError("ttsnap bench needs the project's clone, for its rules; run it from there")
    given_config = load_config(config) if config else None
    base = given_config or Config()
    given = _split(budgets, "--budgets") if budgets else _budgets(base, model)
    asked: dict[str, Any] = {
        "model": model, "components": components, "config": config,
        "reward": reward, "device": device, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    search = [f"--lora={one}" for one in lora or []]
    search += [
        f"--{key.replace('_', '-')}={value}" for key, value in asked.items() if value is not None
    ]
    named = _split(methods, "--methods")
    for method in named:
        for budget in given:
            request = request_of(
                given_config,
                model=model,
                loras=lora or [],
                components=components,
                reward=reward,
                sampling={},
                runtime={"device": device, "batch_size": batch_size},
                dtype=None,
                quantization=None,
                method=method,
                options={},
                plan=None,
                narf=None,
                budget=budget,
                say=_say,
            )
    if file is None and name != "shapes":
        where = BENCHMARKS[name].source
        if name in PUBLISHED:
            where += f", and `ttsnap fetch --benchmark {name}`"
        raise UserError(f"--file: is missing; {where} has what is to be read")
    items = read_items(name, file or ROOT / base.splits.test.file)
    if file is None:
        items = items[base.splits.test.start : base.splits.test.stop]
    if prompts is not None and prompts < len(items):
        items = [items[at * len(items) // prompts] for at in range(prompts)]
    listed = [
        {"id": f"{at:05d}", "prompt": one.prompt, "category": one.category, **one.about}
        for at, one in enumerate(items)
    ]
    settings = Bench(
        name=name,
        model=_shown(model or base.model.path),
        reward=",".join(request.rewards),
        search=search,
        methods=named,
        budgets=given,
        judges=_judges(name, out, base, list(request.rewards), judge, held_out),
        prompts=len(listed),
        prompts_per_job=prompts_per_job,
        device=request.runtime.device,
    )
    write_bench(out, settings, listed)
    _run(snakefile, out, cores, profile, dry_run)


def _shown(model: str) -> str:
    return Path(model).name if Path(model).exists() else model


def _split(text: str, option: str) -> list[str]:
    found = [one.strip() for one in text.split(",") if one.strip()]
    if not found or len(set(found)) < len(found):
        raise UserError(f"{option} {text}: expected names or numbers, each once")
    return found


def _budgets(base: Config, model: str | None) -> list[str]:
    if model is not None:
        raise UserError("--budgets: is missing; what is usual depends on the model")
    return [f"{budget:g}" for budget in base.search.budgets]


def _judges(
    name: str,
    out: Path,
    base: Config,
    rewards: list[str],
    judge: str | None,
    held_out: str | None,
) -> dict[str, Any]:
    """The benchmark's own judge, with what the prompts are about, and the held-out reward."""
    from ttsnap.bench.readers import BENCHMARKS
    from ttsnap.bench.settings import PROMPTS, Judge

    benchmark, found = BENCHMARKS[name], {}
    if name == "shapes" and judge is None:
        found["own"] = Judge(name="oracle", function=Config().judge)
    elif judge is not None:
        of = _reward(judge, base)
        if of.kind not in benchmark.judges:
            kinds = f"kind {' or '.join(benchmark.judges)}" if benchmark.judges else "none"
            raise UserError(f"--judge {judge}: {benchmark.title} takes {kinds}; {benchmark.judged}")
        options = {benchmark.judges[of.kind]: str(out / PROMPTS)} | of.options
        if of.kind == "detector":
            options = {"clip": CLIP} | options
        found["own"] = Judge(name=judge, reward=of.model_copy(update={"options": options}))
    if held_out in rewards:
        raise UserError(f"--held-out {held_out}: is the reward that searches; name another")
    if held_out is not None:
        found["held_out"] = Judge(name=held_out, reward=_reward(held_out, base))
    for one in found.values():
        if one.reward is not None:
            _check(one.name, one.reward)
    return found


def _reward(text: str, base: Config) -> RewardSettings:
    from ttsnap.diffusion.sources import pinned
    from ttsnap.searching.request import read_reward

    if text in base.rewards:
        return base.rewards[text]
    found = read_reward(text)[1]
    if found.get("path") and not found.get("revision"):
        found["path"], found["revision"] = pinned(found["path"], _say)
    return RewardSettings.model_validate(found)


@cache
def _say(line: str) -> None:
    """Show a line, once."""
    console.print(line, style="dim", markup=False, soft_wrap=True)


def _check(name: str, reward: RewardSettings) -> None:
    """See that a judge is of a kind that there is, and its options are those of the kind."""
    from ttsnap.rewards import find_kind
    from ttsnap.rewards.options import read_options

    kind = find_kind(reward.kind, f"judge {name}")
    if hasattr(kind, "Options"):
        read_options(kind.Options, reward, name)


def _run(snakefile: Path, out: Path, cores: str, profile: str | None, dry_run: bool) -> None:
    """Become Snakemake, with Python's own folder first on the path."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--workflow-profile", str(ROOT / "profiles/default"), "--config", f"out={out}"]
    # A lock that a killed run has left would stop the next one.
    command += ["--cores", cores, "--nolock", "--rerun-incomplete"]
    command += ["--profile", profile] if profile else []
    command += ["--dry-run"] if dry_run else []
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    console.print(f"{out}: prompts and settings are written, jobs begin", style="dim")
    os.execv(sys.executable, command)
