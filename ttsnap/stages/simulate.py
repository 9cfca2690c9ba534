"""Replay best-of-N, TTSp and TTSnap on the test tensors with the schedules of the plan."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
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
    budgets: config.Budgets
    draws: int
    accounting: config.Accounting
    seed: int


def main(
    settings: Annotated[Settings, json_option(Settings)],
    reward: RewardName,
    model: ModelReceipt,
    reward_cost: CostReceipt,
    base: BaseReceipts,
    finetuned: FinetunedReceipts,
    plan: Annotated[Path, typer.Option(help="Plan of the reward.")],
    curves: Annotated[Path, typer.Option(help="Table to write.")],
    omega: Annotated[Path, typer.Option(help="Table to write.")],
    drafts: DraftReceipts = None,
) -> None:
    from ttsnap.schedule import read_plan
    from ttsnap.simulation.experiment import Experiment
    from ttsnap.simulation.source import read_costs
    from ttsnap.simulation.strategies import simulate_parts

    costs = read_costs(model, reward_cost, settings.accounting, previews=len(base) > 1)
    simulated = simulate_parts(
        Experiment.of_run(reward, base, finetuned, costs, drafts or []),
        read_plan(plan),
        settings.budgets,
        settings.draws,
        settings.seed,
    )
    simulated.table.to_csv(curves, index=False)
    simulated.omega.to_csv(omega, index=False)
    for row in simulated.omega.itertuples():
        logging.info("%s: omega %.2f", row.strategy, row.omega)


if __name__ == "__main__":
    run(main)
