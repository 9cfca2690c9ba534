"""Replay best-of-N, TTSp and TTSnap on the test tensors over a range of budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.schedule import Accounting, CostModel, Schedule
from ttsnap.stages import json_option, run
from ttsnap.store import RewardTensor, read_receipt


class Settings(config.Settings):
    simulation: config.Simulation
    seed: int


def read_costs(model: Path, reward_cost: Path, accounting: Accounting = "corrected") -> CostModel:
    """The cost model of what the model and reward cost stages found."""
    prices = read_receipt(reward_cost)
    return CostModel(
        denoise=prices["denoise"],
        decode=prices["decode"],
        reward=prices["score"],
        steps=read_receipt(model)["steps"],
        accounting=accounting,
    )


def main(
    settings: Annotated[Settings, json_option(Settings)],
    model: Annotated[Path, typer.Option(help="Receipt of the model stage.")],
    reward_cost: Annotated[Path, typer.Option(help="Receipt of the reward cost stage.")],
    base: Annotated[Path, typer.Option(help="Receipt of the base tensor.")],
    finetuned: Annotated[Path, typer.Option(help="Receipt of the finetuned tensor.")],
    curves: Annotated[Path, typer.Option(help="Table to write.")],
    omega: Annotated[Path, typer.Option(help="Table to write.")],
) -> None:
    from ttsnap.simulation import at_all_steps, omega_table, simulate

    simulation = settings.simulation
    costs = read_costs(model, reward_cost, simulation.accounting)
    loaded = [RewardTensor.load(receipt.with_suffix(".zarr")) for receipt in (base, finetuned)]
    scores = [at_all_steps(tensor.values, tensor.steps, costs.steps) for tensor in loaded]
    simulated = simulate(
        scores[0],
        scores[1],
        costs,
        Schedule.of(simulation.checks),
        simulation.budgets,
        simulation.draws,
        settings.seed,
    )
    simulated.table.to_csv(curves, index=False)
    omega_table(simulated, seed=settings.seed).to_csv(omega, index=False)


if __name__ == "__main__":
    run(main)
