"""Choose the schedules on the val tensors: one per strategy and budget, and a robust one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.run.trained import made_for
from ttsnap.schedule import Schedule
from ttsnap.stages import (
    BaseReceipts,
    CostReceipt,
    DraftReceipts,
    FinetunedReceipts,
    ModelReceipt,
    RewardName,
    json_option,
    run,
)


class Settings(config.Settings):
    checks: list[config.CheckSettings] | None
    budgets: config.Budgets
    accounting: config.Accounting
    steps: list[int]
    seed: int
    model: config.Model
    sampling: config.Sampling
    reward: config.RewardSettings
    draft: config.Draft | None


def main(
    settings: Annotated[Settings, json_option(Settings)],
    reward: RewardName,
    model: ModelReceipt,
    reward_cost: CostReceipt,
    base: BaseReceipts,
    finetuned: FinetunedReceipts,
    out: Annotated[Path, typer.Option(help="Plan to write.")],
    drafts: DraftReceipts = None,
) -> None:
    from ttsnap.simulation.experiment import Experiment
    from ttsnap.simulation.source import read_costs
    from ttsnap.simulation.strategies import given_plan, plan_schedules, write_plan

    costs = read_costs(model, reward_cost, settings.accounting, previews=len(base) > 1)
    experiment = Experiment.of_run(reward, base, finetuned, costs, drafts or [])
    if settings.checks is None:
        planned = plan_schedules(experiment, settings.budgets, settings.seed, steps=settings.steps)
    else:
        given = Schedule.of(settings.checks)
        planned = given_plan(experiment, given, settings.budgets, settings.seed)
    provenance = {
        "source": str(base[0].parent),
        "prompts": "val",
        "seed": settings.seed,
        "made_for": made_for(settings.model, settings.sampling, {reward: settings.reward}),
    }
    if settings.draft:
        planned = {"draft": settings.draft.model_dump(mode="json")} | planned
    write_plan(out, planned, experiment, provenance)
    for one in planned["plans"]:
        schedule = Schedule.from_json(one["checks"])
        logging.info(
            "%s at %g %s: N = %d, %s%s",
            *(one["strategy"], one["budget"], costs.unit, one["n"]),
            schedule if schedule.checks else "no checks",
            f", as {one['run_as']}" if one["run_as"] != one["strategy"] else "",
        )


if __name__ == "__main__":
    run(main)
