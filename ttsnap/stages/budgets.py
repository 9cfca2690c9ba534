"""Refuse budgets that the stored images cannot serve, as soon as prices are known."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ttsnap import config
from ttsnap.stages import CostReceipt, ModelReceipt, json_option, run
from ttsnap.store.receipts import write_receipt


class Settings(config.Settings):
    checks: list[config.CheckSettings] | None
    budgets: dict[str, config.Budgets]
    images: dict[str, int]


def main(
    settings: Annotated[Settings, json_option(Settings)],
    model: ModelReceipt,
    reward_cost: CostReceipt,
    out: Annotated[Path, typer.Option()],
) -> None:
    from ttsnap.errors import UserError
    from ttsnap.run.check import unserved
    from ttsnap.simulation.source import read_costs

    costs = read_costs(model, reward_cost)
    if lines := list(unserved(settings.budgets, settings.images, settings.checks, costs)):
        raise UserError("\n".join(lines))
    budgets = sorted({budget for some in settings.budgets.values() for budget in some})
    bought = {f"{budget:g}": costs.largest_n(budget) for budget in budgets}
    logging.info("%.4g %s an image", costs.cost(1), costs.unit)
    write_receipt(
        out, {"kind": "budgets", "unit": costs.unit, "image": costs.cost(1), "bought": bought}
    )


if __name__ == "__main__":
    run(main)
