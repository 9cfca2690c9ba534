"""Search live with one method on a block of test prompts, at every budget."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from ttsnap import config
from ttsnap.prompts import load_split, seed_of
from ttsnap.schedule import Schedule, read_plan
from ttsnap.stages import CostReceipt, ModelReceipt, RuntimeOption, json_option, run
from ttsnap.store.trajectories import read_receipt, write_table

VERSION = 3


class Settings(config.Settings):
    model: config.Model
    sampling: config.Sampling
    split: config.SplitSettings
    seed: int
    reward: config.RewardSettings
    reward_name: str
    budgets: list[float]
    options: dict[str, Any]
    prompts_per_job: int
    judge_reward: config.RewardSettings | None
    judge_reward_name: str | None
    judge: str | None
    pictured: int
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
    plan: Annotated[
        Path | None, typer.Option(help="Plan of the reward, for a method that prunes.")
    ] = None,
) -> None:
    from ttsnap.diffusion import load_sampler
    from ttsnap.diffusion.sources import described
    from ttsnap.progress import track
    from ttsnap.rewards import load_judge, load_reward
    from ttsnap.searching import METHODS, Task, run_method
    from ttsnap.searching.setup import method_options, planned_options, sampling_for
    from ttsnap.simulation.source import read_costs

    how = METHODS[method]
    sampling = sampling_for(how, settings.model.family, settings.sampling)
    dtype = read_receipt(model).get("dtype", settings.model.dtype)
    sampler = load_sampler(settings.model.model_copy(update={"dtype": dtype}), sampling, runtime)
    load = partial(load_reward, settings.reward, name=settings.reward_name, device=runtime.device)
    reward = load()
    costs = read_costs(model, reward_cost)
    found = read_plan(plan) if plan else None
    options = {
        budget: method_options(
            how,
            (planned_options(found, how, budget, settings.reward_name, costs) if found else {})
            | settings.options,
        )
        for budget in settings.budgets
    }
    receipts = {read_receipt(path)["step"]: path for path in checkpoint or []}
    checked = {
        check.step
        for chosen in options.values()
        for check in Schedule.parse(getattr(chosen, "schedule", "")).checks
    }
    verifiers = {
        step: (load(checkpoint=receipts[step].with_suffix("")),) for step in checked & {*receipts}
    }
    oracle = load_judge(settings.judge) if settings.judge else None
    judge = None
    if settings.judge_reward and settings.judge_reward_name:
        judge = load_reward(
            settings.judge_reward, name=settings.judge_reward_name, device=runtime.device
        )

    size = settings.prompts_per_job
    prompts = load_split(settings.split)[block * size : (block + 1) * size]
    rows = []
    for number, prompt in enumerate(track(prompts, f"{method}, prompts"), start=block * size):
        conditioning = sampler.encode([prompt.text], [prompt.negative])
        for budget in settings.budgets:
            task = Task(
                sampler=sampler,
                conditioning=conditioning,
                prompt=prompt.text,
                rewards=(reward,),
                costs=costs,
                budget=budget,
                seed_of=partial(seed_of, settings.seed, prompt.id),
                verifiers=verifiers,
                model=described(settings.model),
                batch_size=runtime.batch_size,
            )
            result = run_method(method, task, options[budget])
            image, texts = result.image[None], [prompt.text]
            judged = {
                "held_out": float(judge.score(image, texts)[0]) if judge else None,
                "oracle": float(oracle(image, texts)[0]) if oracle else None,
            }
            rows.append(result.row(prompt.id, **judged))
            result.save(
                out.parent / f"{budget:g}" / prompt.id,
                contact=number < settings.pictured,
                settings={"seed": settings.seed, "prompt_id": prompt.id},
            )
    table = pd.DataFrame(rows)
    write_table(out, table)
    for budget in settings.budgets:
        mean = table[table.budget == budget][["reward", "spent", "n", "seconds"]].mean()
        logging.info(
            "%s at %g %s, mean of %d prompts: %s %.4g, %.3g %s spent, N = %.4g, %.3g s",
            *(method, budget, costs.unit, len(prompts), reward.name, mean.reward, mean.spent),
            *(costs.unit, mean.n, mean.seconds),
        )


if __name__ == "__main__":
    run(main)
