"""Reward against budget for best-of-N, TTSp and TTSnap on one split's reward tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule, check_steps
from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.montecarlo import expected_reward
from ttsnap.stats import mean_interval

BEST_OF_N, TTSP, TTSNAP = "best-of-n", "ttsp", "ttsnap"


@dataclass(frozen=True)
class Curves:
    """Expected final reward of each strategy at each budget.

    Attributes:
        budgets: ascending, in the unit of the costs.
        per_prompt: strategy -> (P, len(budgets)); NaN where the strategy cannot be simulated.
        table: tidy: strategy, schedule, budget, n (what the budget buys), mean, low, high (95 %
            bootstrap interval over prompts), note (why a mean is missing, else empty).
    """

    budgets: list[float]
    per_prompt: dict[str, np.ndarray]
    table: pd.DataFrame


def simulate(
    base: np.ndarray,
    finetuned: np.ndarray,
    costs: CostModel,
    schedule: Schedule,
    budgets: Sequence[float],
    draws: int,
    seed: int,
) -> Curves:
    """Simulate best-of-N (exactly), TTSp (base rewards prune) and TTSnap (finetuned ones do).

    The winner is always picked by the base reward of the final image, which is what is reported.
    A budget that buys more candidates than the pool holds, or none, has NaN and a note.

    Args:
        base: (P, I, S) rewards of the untouched model at every step; NaN at steps not scored.
        finetuned: (P, I, S) rewards of the steps' NARF checkpoints; a step of NaN has none, and
            its base reward is used.
        costs: prices a candidate.
        schedule: the checks of TTSp and TTSnap.
        budgets: per prompt, in the unit of ``costs``.
        draws: random subsets per prompt and budget.
        seed: of the subsets and the bootstrap.

    Raises:
        UserError: a check beyond the steps or at one without rewards, or a step with only some
            finetuned rewards.
    """
    prompts, pool, steps = base.shape
    if steps != costs.steps:
        raise ValueError(f"rewards at {steps} steps, but costs of {costs.steps}: see at_all_steps")
    check_steps(schedule, steps)
    for check in schedule.checks:
        if np.isnan(base[:, :, check.step]).any():
            raise UserError(f"schedule {schedule}: no rewards at step {check.step}")
    final = base[:, :, -1]
    budgets = sorted(set(budgets))
    strategies = {
        BEST_OF_N: (Schedule(), base),
        TTSP: (schedule, base),
        TTSNAP: (schedule, with_fallback(base, finetuned)),
    }
    per_prompt, rows = {}, []
    for name, (checks, scores) in strategies.items():
        bought = [costs.largest_n(budget, checks) for budget in budgets]
        sizes = sorted({n for n in bought if 0 < n <= pool})
        if name == BEST_OF_N:
            columns = [expected_best(final, n) for n in sizes]
        else:
            columns = list(expected_reward(scores, final, checks, sizes, draws, seed).T)
        by_size = dict(zip(sizes, columns, strict=True))
        missing = np.full(prompts, np.nan)
        values = np.stack([by_size.get(n, missing) for n in bought], axis=1)
        mean, low, high = mean_interval(values, seed=seed)
        per_prompt[name] = values
        rows += [
            {
                "strategy": name,
                "schedule": str(checks),
                "budget": budget,
                "n": n,
                "mean": mean[i],
                "low": low[i],
                "high": high[i],
                "note": _note(n, pool),
            }
            for i, (budget, n) in enumerate(zip(budgets, bought, strict=True))
        ]
    return Curves(budgets, per_prompt, pd.DataFrame(rows))


def at_all_steps(values: np.ndarray, steps: Sequence[int], total: int) -> np.ndarray:
    """Rewards (P, I, len(steps)) of some steps as (P, I, total), NaN at the others."""
    spread = np.full((*values.shape[:2], total), np.nan, dtype=values.dtype)
    spread[:, :, list(steps)] = values
    return spread


def with_fallback(base: np.ndarray, finetuned: np.ndarray) -> np.ndarray:
    """``finetuned`` (P, I, S) with the base rewards at the steps that have none (all NaN).

    Raises:
        UserError: a step where only some values are NaN; two rewards do not rank together.
    """
    missing = np.isnan(finetuned)
    holes = missing.any(axis=(0, 1)) & ~missing.all(axis=(0, 1))
    if holes.any():
        step = int(np.argmax(holes))
        raise UserError(
            f"finetuned rewards, step {step}: {int(missing[:, :, step].sum())} of "
            f"{missing[:, :, step].size} are NaN; expected all of a step, or none"
        )
    return np.where(missing, base, finetuned)


def _note(n: int, pool: int) -> str:
    if n == 0:
        return "does not buy one candidate"
    return f"buys {n} candidates, the pool holds {pool}" if n > pool else ""
