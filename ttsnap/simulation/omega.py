"""What a strategy gains on best-of-N over a range of budgets, as one number or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.integrate import simpson

from ttsnap.errors import UserError
from ttsnap.simulation.montecarlo import Floats

BEST_OF_N = "best-of-n"
DRAWS = 2000  # bootstrap samples of the prompts


def gains(
    per_prompt: Mapping[str, np.ndarray],
    best_of: Mapping[int, np.ndarray],
    budgets: Sequence[float],
    *,
    against: Mapping[str, str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """ω and two figures that mean something to people, with bootstrap intervals over prompts.

    ω = 100 (A - A_BoN) / A_BoN, where A is the area over the budgets (Simpson) of the reward above
    best-of-N's at the smallest budget (arXiv 2511.22242). ``equivalent_n_ratio``: best-of-N at the
    cost that the strategy had is as good as best-of-M, and this is M/N. ``compute_for_same_reward``
    is the share of the compute at which the strategy reaches best-of-N's reward. Both are geometric
    means over those budgets at which the other curve, linear in between, reaches that reward; NaN
    if there are none. Only budgets that all strategies could be simulated at count.

    Args:
        per_prompt: strategy -> (P, B) expected reward; best-of-N is among them.
        best_of: n -> (P,) expected reward of best-of-n, for ascending n up to the pool's size.
        budgets: B, ascending.
        against: strategy -> one that its ω is compared with, prompt by prompt.
        level: coverage of the intervals.
        seed: of the bootstrap.

    Returns:
        strategy, then each figure with its _low and _high; omega_gain likewise, which is ω less
        that of the strategy it is ``against``; then first_budget and last_budget of those that
        count.

    Raises:
        UserError: fewer than two budgets count, or best-of-N gains nothing over them.
    """
    present = np.all([np.isfinite(values).all(axis=0) for values in per_prompt.values()], axis=0)
    costs = np.asarray(budgets)[present]
    if len(costs) < 2:
        raise UserError(
            f"budgets {list(budgets)}: ω needs two or more that buy at least one candidate and "
            "no more candidates than the pool holds, for every strategy"
        )
    curves = {name: values[:, present] for name, values in per_prompt.items()}
    prompts = len(curves[BEST_OF_N])
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=DRAWS) / prompts
    weights = np.concatenate([np.full((1, prompts), 1 / prompts), drawn])  # the sample itself first
    means = {name: weights @ values for name, values in curves.items()}
    reference = means[BEST_OF_N]
    start = reference[:, :1]
    # The area is linear in the reward, so that the area of a mean curve is a mean of areas.
    area = simpson(reference - start, x=costs, axis=1)
    if area[0] <= 0:
        raise UserError(
            f"budgets {list(budgets)}: best-of-N finds no better image at the largest than at "
            "the smallest, so that ω is undefined; spread the budgets"
        )
    sizes = np.array(list(best_of), np.float64)
    ladder = weights @ np.stack(list(best_of.values()), axis=1)
    found = _reached(ladder, sizes, reference)
    spent = _reached(reference, costs, reference)
    omegas = {
        name: 100 * simpson(mean - reference, x=costs, axis=1) / area
        for name, mean in means.items()
    }
    rows = []
    for name, mean in means.items():
        other = (against or {}).get(name)
        figures = {
            "omega": omegas[name],
            "equivalent_n_ratio": _average(_reached(ladder, sizes, mean) / found),
            "compute_for_same_reward": _average(_reached(mean, costs, reference) / spent),
            "omega_gain": omegas[name] - omegas[other] if other else np.full(len(area), np.nan),
        }
        row: dict[str, str | float] = {"strategy": name}
        for figure, values in figures.items():
            low, high = _interval(values[1:], level)
            row |= {figure: values[0], f"{figure}_low": low, f"{figure}_high": high}
        rows.append(row | {"first_budget": costs[0], "last_budget": costs[-1]})
    return pd.DataFrame(rows)


def _reached(curves: Floats, places: Floats, targets: Floats) -> Floats:
    """Where each of ``curves`` (W, K) over ``places`` (K,) first reaches its ``targets`` (W, B).

    NaN where that is off the curve's ends.
    """
    rows = []
    for curve, target in zip(np.maximum.accumulate(curves, axis=1), targets, strict=True):
        rises = np.diff(curve, prepend=-np.inf) > 0
        rows.append(np.interp(target, curve[rises], places[rises], left=np.nan, right=np.nan))
    return np.stack(rows)


def _average(ratios: Floats) -> Floats:
    """Geometric mean (W,) of the ratios (W, B) that are known; NaN where none is."""
    known = np.isfinite(ratios)
    logs = np.log(np.where(known, ratios, 1)).sum(axis=1)
    count = known.sum(axis=1)
    return np.exp(np.divide(logs, count, out=np.full(len(logs), np.nan), where=count > 0))


def _interval(values: Floats, level: float) -> tuple[float, float]:
    """Percentiles of bootstrap ``values``; NaN if most are unknown."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2:
        return np.nan, np.nan
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
