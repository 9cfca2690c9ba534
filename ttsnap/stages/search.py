"""Search live with one method on a block of test prompts, at every budget."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ttsnap import config
from ttsnap.prompts import load_split, seed_of
from ttsnap.schedule import Schedule, planned_schedule, read_plan
from ttsnap.stages import CostReceipt, ModelReceipt, RuntimeOption, json_option, run
from ttsnap.store import read_receipt, write_table

VERSION = 2


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    split: config.SplitSettings
    seed: int
    reward: config.RewardSettings
    reward_name: str
    search: config.Search
    judge: str | None
    contact_sheets: int
    prompts: str
    version: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    runtime: RuntimeOption,
    method: Annotated[str, typer.Option()],
    block: Annotated[int, typer.Option(min=0)],
    model: ModelReceipt,
    reward_cost: CostReceipt,
    out: Annotated[Path, typer.Option()],
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Receipts of NARF checkpoints.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Plan of the reward; none: best-of-n.")] = None,
) -> None:
    from ttsnap.diffusion import load_sampler
    from ttsnap.progress import track
    from ttsnap.rewards import load_judge, load_reward
    from ttsnap.search import Task, best_of_n
    from ttsnap.search.pruning import prune
    from ttsnap.simulation.source import read_costs

    sampler = load_sampler(settings.model, settings.sampling, runtime.device)
    load = partial(load_reward, settings.reward, name=settings.reward_name, device=runtime.device)
    reward = load()
    costs = read_costs(model, reward_cost)
    schedules = {
        budget: planned_schedule(
            read_plan(plan), method, budget, reward=settings.reward_name, costs=costs
        )
        if plan
        else Schedule()
        for budget in settings.search.budgets
    }
    receipts = {read_receipt(path)["step"]: path for path in checkpoint or []}
    checked = {check.step for schedule in schedules.values() for check in schedule.checks}
    verifiers = {
        step: load(checkpoint=receipts[step].with_suffix("")) for step in checked & {*receipts}
    }
    judge = load_judge(settings.judge) if settings.judge else None

    size = settings.search.prompts_per_job
    prompts = load_split(settings.split)[block * size : (block + 1) * size]
    rows = []
    for number, prompt in enumerate(track(prompts, f"{method}, prompts"), start=block * size):
        conditioning = sampler.encode([prompt.text], [prompt.negative])
        for budget in settings.search.budgets:
            task = Task(
                sampler=sampler,
                conditioning=conditioning,
                prompt=prompt.text,
                reward=reward,
                costs=costs,
                budget=budget,
                seed_of=partial(seed_of, settings.seed, prompt.id),
                model=settings.model.path,
                batch_size=runtime.batch_size,
            )
            if method == "best-of-n":
                result = best_of_n(task)
            else:
                result = prune(task, schedules[budget], verifiers, method)
            oracle = float(judge(result.image[None], [prompt.text])[0]) if judge else None
            rows.append(result.row(prompt.id, oracle))
            result.save(
                out.parent / f"{budget:g}" / prompt.id, contact=number < settings.contact_sheets
            )
    table = pd.DataFrame(rows)
    write_table(out, table)
    logging.info("%s", table[["reward", "spent", "n", "seconds"]].mean().to_string())


if __name__ == "__main__":
    run(main)
