"""ω: how much more reward than best-of-N a strategy gains over a range of budgets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.integrate import simpson

from ttsnap.errors import UserError
from ttsnap.simulation.strategies import BEST_OF_N, Curves


def omega_table(
    curves: Curves, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """ω of every strategy, in percent, with a bootstrap interval over prompts.

    ω = 100 (A - A_BoN) / A_BoN, where A is the area over the budgets (Simpson) of the reward above
    best-of-N's at the smallest budget (arXiv 2511.22242). Only budgets that all strategies could
    be simulated at count.

    Returns:
        strategy, omega, omega_low, omega_high, first_budget, last_budget (those that count).

    Raises:
        UserError: fewer than two budgets count, or best-of-N gains nothing over them.
    """
    present = np.all([np.isfinite(v).all(axis=0) for v in curves.per_prompt.values()], axis=0)
    budgets = np.asarray(curves.budgets)[present]
    if len(budgets) < 2:
        raise UserError(
            f"budgets {curves.budgets}: ω needs two or more that buy at least one candidate and "
            "no more candidates than the pool holds, for every strategy"
        )
    baseline = curves.per_prompt[BEST_OF_N][:, present][:, :1]
    # The area is linear in the reward: the area of a mean curve is the mean of prompts' areas.
    areas = {
        name: simpson(values[:, present] - baseline, x=budgets, axis=1)
        for name, values in curves.per_prompt.items()
    }
    reference = areas[BEST_OF_N]
    prompts = len(reference)
    if reference.mean() <= 0:
        raise UserError(
            f"budgets {curves.budgets}: best-of-N finds no better image at the largest than at "
            "the smallest, so that ω is undefined; spread the budgets"
        )
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws) / prompts
    tail = (1 - level) / 2
    rows = []
    for name, area in areas.items():
        sampled = 100 * (weights @ (area - reference)) / (weights @ reference)
        low, high = np.quantile(sampled, [tail, 1 - tail])
        rows.append(
            {
                "strategy": name,
                "omega": 100 * (area.mean() / reference.mean() - 1),
                "omega_low": low,
                "omega_high": high,
                "first_budget": budgets[0],
                "last_budget": budgets[-1],
            }
        )
    return pd.DataFrame(rows)
