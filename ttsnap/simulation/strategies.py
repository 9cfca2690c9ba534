"""Reward against budget for best-of-N, TTSp and TTSnap on reward tensors, and plans for them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule, check_steps, combine
from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.joint import search_jointly
from ttsnap.simulation.montecarlo import Estimate, Floats, Pool, Subsets
from ttsnap.simulation.omega import BEST_OF_N, gains
from ttsnap.simulation.planner import SUBSETS, Plan, Planner, planning_subsets
from ttsnap.simulation.source import RewardPair
from ttsnap.stats import mean_interval
from ttsnap.store.receipts import write_receipt

TTSP, TTSNAP = "ttsp", "ttsnap"
STRATEGIES = (BEST_OF_N, TTSP, TTSNAP)
JOINT = "joint"
ERROR_SHARE, MOST_DRAWS = 0.1, 16_384
SIZES = 16  # of best-of-N, at which it is simulated where there is no exact expectation

Schedules = Mapping[tuple[str, float], Schedule]  # by strategy (TTSp, TTSnap) and budget


@dataclass(frozen=True)
class Task:
    """What is searched: one reward, or several together.

    Attributes:
        rewards: by name; of the same trajectories.
        costs: prices a candidate.
        joint: whether pruning and picking go by all rewards together, or each is a task of its own.
        weights: of the rewards' z-scores; None adds up ranks.
        scoring: what each reward costs where it searches alone; None is ``costs.reward`` for all.
    """

    rewards: Mapping[str, RewardPair]
    costs: CostModel
    joint: bool = False
    weights: Sequence[float] | None = None
    scoring: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, pair in self.rewards.items():
            if pair.base.shape[2] != self.costs.steps:
                raise UserError(
                    f"{name}: rewards at {pair.base.shape[2]} steps, but costs of "
                    f"{self.costs.steps}; expected as many"
                )
        if self.weights is None:
            return
        if len(self.weights) != len(self.rewards):
            raise UserError(
                f"{len(self.weights)} weights for {len(self.rewards)} rewards; expected one each"
            )
        if not (all(0 <= one < math.inf for one in self.weights) and sum(self.weights) > 0):
            raise UserError(
                f"weights {list(self.weights)}: expected finite ones, none negative, not all 0"
            )

    @property
    def prunes_by(self) -> str:
        """Name of what prunes: the reward's, or ``joint``."""
        return JOINT if self.joint else next(iter(self.rewards))

    @property
    def finals(self) -> list[np.ndarray]:
        """(P, I) of each reward."""
        return [pair.final for pair in self.rewards.values()]

    def parts(self) -> list[Task]:
        """Tasks that prune by one thing each."""
        if self.joint:
            return [self]
        prices = self.scoring or dict.fromkeys(self.rewards, self.costs.reward)
        return [
            Task({name: pair}, replace(self.costs, reward=prices[name]))
            for name, pair in self.rewards.items()
        ]

    def of(self, prompts: slice) -> Task:
        """The same on some of the prompts."""
        chosen = {name: pair.of(prompts) for name, pair in self.rewards.items()}
        if not all(len(pair.base) for pair in chosen.values()):
            raise UserError("no prompts are left of the source; choose others, or all")
        return replace(self, rewards=chosen)

    def sha256(self) -> str:
        """Of all rewards, which tells plans of different ones apart."""
        digest = hashlib.sha256()
        for name, pair in self.rewards.items():
            for values in (pair.base, pair.finetuned):
                digest.update(f"{name} {values.shape}".encode())
                digest.update(values.tobytes())
        return digest.hexdigest()

    def scores(self, strategy: str) -> list[np.ndarray]:
        """(P, I, S) of each reward, what prunes."""
        pairs = self.rewards.values()
        return [pair.finetuned if strategy == TTSNAP else pair.base for pair in pairs]

    def steps(self, strategy: str) -> list[int]:
        """Where a strategy may check: TTSp at any step scored, TTSnap where all are finetuned."""
        kinds = [
            pair.finetuned_steps if strategy == TTSNAP else pair.base_steps
            for pair in self.rewards.values()
        ]
        return sorted(set[int].intersection(*map(set, kinds)))


def plan(
    task: Task,
    budgets: Sequence[float],
    seed: int,
    *,
    steps: Sequence[int] | None = None,
    observe: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Plan TTSp and TTSnap for every budget, and one robust schedule for all of them.

    Args:
        task: with the prompts to plan on, and no others.
        budgets: per prompt, in the unit of the costs.
        seed: of the random subsets that schedules are compared on.
        steps: where a check may be; by default anywhere that there are rewards.
        observe: called when another budget of another strategy is planned.

    Returns:
        ``plans`` and ``robust`` of a plan file, in JSON types.

    Raises:
        UserError: a budget does not afford one candidate, or more than the pool holds.
    """
    budgets = sorted(set(budgets))
    plans, robust = [], []
    for part in task.parts():
        for strategy in (TTSP, TTSNAP):
            allowed = part.steps(strategy)
            planner = Planner(
                _planning_pool(part, strategy, seed),
                part.costs,
                allowed if steps is None else sorted({*allowed} & {*steps}),
            )
            found = []
            for one in planner.plans(budgets):
                found.append(one)
                observe()
            about = {"strategy": strategy, "reward": part.prunes_by}
            plans += [about | _described(one, part.costs, seed) for one in found]
            schedule = planner.robust(found)
            robust.append(
                about
                | {
                    "checks": schedule.to_json(),
                    "budgets": [budgets[0], budgets[-1]],
                    "expected": [
                        {"budget": budget}
                        | _described(planner.plan(budget, schedule), part.costs, seed)["expected"]
                        for budget in budgets
                    ],
                }
            )
    return {"plans": plans, "robust": robust}


def given_plan(
    task: Task, schedule: Schedule, budgets: Sequence[float], seed: int
) -> dict[str, Any]:
    """As :func:`plan` for a schedule that is given."""
    plans, robust = [], []
    for part in task.parts():
        for strategy in (TTSP, TTSNAP):
            _check_scored(part, strategy, schedule)
            planner = Planner(_planning_pool(part, strategy, seed), part.costs, ())
            about = {"strategy": strategy, "reward": part.prunes_by}
            plans += [
                about | _described(planner.plan(budget, schedule), part.costs, seed)
                for budget in sorted(set(budgets))
                if part.costs.largest_n(budget, schedule)
            ]
            robust.append(about | {"checks": schedule.to_json()})
    return {"plans": plans, "robust": robust}


def write_plan(
    path: Path, planned: Mapping[str, Any], task: Task, provenance: Mapping[str, Any]
) -> None:
    """Write what :func:`plan` found for ``task`` as a plan file, with the costs and its origin."""
    costs = task.costs
    write_receipt(
        path,
        {
            "kind": "plan",
            "accounting": costs.accounting,
            "unit": costs.unit,
            "costs": {
                part: getattr(costs, part) for part in ("denoise", "decode", "reward", "preview")
            },
            "steps": costs.steps,
            **planned,
            "provenance": {
                **provenance,
                "rewards_sha256": task.sha256(),
                "subsets": SUBSETS,
                "expected": "on the prompts planned on, which flatters plans",
            },
        },
    )


def schedules_of(planned: Mapping[str, Any], prunes_by: str) -> Schedules:
    """The schedules in a plan for one reward, or for ``joint``."""
    return {
        (one["strategy"], one["budget"]): Schedule.from_json(one["checks"])
        for one in planned["plans"]
        if one["reward"] == prunes_by
    }


@dataclass(frozen=True)
class Curves:
    """Expected final reward of each strategy at each budget.

    Attributes:
        table: strategy, reward, prunes_by (a reward or ``joint``), budget, n (what the budget
            buys), mean, low, high (95 % bootstrap interval over prompts), error (Monte Carlo),
            schedule, note (why a mean is missing, else empty).
        omega: strategy, reward, prunes_by and what :func:`gains` finds.
        per_prompt: strategy and reward -> (P, B); NaN where it cannot be simulated.
    """

    table: pd.DataFrame
    omega: pd.DataFrame
    per_prompt: dict[tuple[str, str], Floats]


def simulate(
    task: Task,
    schedules: Schedules,
    budgets: Sequence[float],
    draws: int,
    seed: int,
    *,
    observe: Callable[[], None] = lambda: None,
) -> Curves:
    """Simulate best-of-N, TTSp (base rewards prune) and TTSnap (finetuned ones do).

    The winner is always picked by the base rewards of the final images, which is what is reported.
    Best-of-N of a single reward is exact. A budget that buys no candidate, more than the pool
    holds, or has no schedule, has NaN and a note.

    Args:
        task: that prunes by one thing (see :meth:`Task.parts`).
        schedules: for every strategy and budget.
        budgets: per prompt, in the unit of the costs.
        draws: random subsets per prompt, the same for all strategies and budgets.
        seed: of the subsets and the bootstrap.
        observe: called when another budget of another strategy is done.

    Raises:
        UserError: a check beyond the steps or at one without rewards; ω is undefined.
    """
    budgets = sorted(set(budgets))
    prompts, pool = task.finals[0].shape
    subsets = Subsets(prompts, pool, draws, seed)
    per_prompt = {
        (name, reward): np.full((prompts, len(budgets)), np.nan)
        for name in STRATEGIES
        for reward in task.rewards
    }
    rows = []
    for name in STRATEGIES:
        search = _searcher(task, name, subsets)
        for column, budget in enumerate(budgets):
            schedule = Schedule() if name == BEST_OF_N else schedules.get((name, budget))
            n = task.costs.largest_n(budget, schedule or Schedule())
            found: Sequence[Estimate | None] = [None] * len(task.rewards)
            if schedule is not None and 0 < n <= pool:
                _check_scored(task, name, schedule)
                found = search([check.step for check in schedule.checks], schedule.counts(n))
            for reward, estimate in zip(task.rewards, found, strict=True):
                if estimate is not None:
                    per_prompt[name, reward][:, column] = estimate.mean
                rows.append(
                    {
                        "strategy": name,
                        "reward": reward,
                        "prunes_by": task.prunes_by,
                        "budget": budget,
                        "n": n,
                        "error": estimate.error if estimate else np.nan,
                        "schedule": str(schedule or ""),
                        "note": _note(n, pool),
                    }
                )
            observe()
    table = pd.DataFrame(rows)
    for (name, reward), values in per_prompt.items():
        chosen = (table.strategy == name) & (table.reward == reward)
        for key, column_values in zip(
            ("mean", "low", "high"), mean_interval(values, seed=seed), strict=True
        ):
            table.loc[chosen, key] = column_values
    columns = "strategy reward prunes_by budget n mean low high error schedule note"
    return Curves(
        table[columns.split()], _omega(task, per_prompt, budgets, subsets, seed), per_prompt
    )


def enough_draws(table: pd.DataFrame, draws: int) -> int:
    """Random subsets a prompt for a Monte Carlo error well below that over prompts.

    Args:
        table: of :class:`Curves`, simulated with ``draws`` subsets.
        draws: what is enough if no error is more than a tenth of its interval's half width.

    Returns:
        ``draws`` or more, ``MOST_DRAWS`` at most.
    """
    share = 2 * table.error / (table.high - table.low)
    worst = float(share[np.isfinite(share)].max())
    wanted = draws * (worst / ERROR_SHARE) ** 2 if worst > ERROR_SHARE else draws
    return min(MOST_DRAWS, math.ceil(wanted))


def _omega(
    task: Task,
    per_prompt: Mapping[tuple[str, str], Floats],
    budgets: Sequence[float],
    subsets: Subsets,
    seed: int,
) -> pd.DataFrame:
    """:func:`gains` for every reward."""
    pool = subsets.pool
    if task.joint:
        largest = min(pool, max(1, 4 * task.costs.largest_n(budgets[-1])))
        sizes = sorted({round(size) for size in np.geomspace(1, largest, SIZES)})
        search = _searcher(task, BEST_OF_N, subsets)
        estimates = [search([], [size]) for size in sizes]
        ladders = {
            reward: {size: found[i].mean for size, found in zip(sizes, estimates, strict=True)}
            for i, reward in enumerate(task.rewards)
        }
    else:
        ladders = {
            reward: {size: expected_best(pair.final, size) for size in range(1, pool + 1)}
            for reward, pair in task.rewards.items()
        }
    tables = []
    for reward, ladder in ladders.items():
        curves = {name: per_prompt[name, reward] for name in STRATEGIES}
        found = gains(curves, ladder, budgets, seed=seed)
        found.insert(1, "reward", reward)
        found.insert(2, "prunes_by", task.prunes_by)
        tables.append(found)
    return pd.concat(tables, ignore_index=True)


def _searcher(
    task: Task, strategy: str, subsets: Subsets
) -> Callable[[Sequence[int], Sequence[int]], Sequence[Estimate]]:
    """What estimates every reward for (steps, counts)."""
    finals = task.finals
    if task.joint:
        scores = task.scores(strategy)
        return partial(_jointly, scores, finals, subsets, task.weights)
    (final,) = finals
    if strategy == BEST_OF_N:
        return lambda steps, counts: [
            Estimate(expected_best(final, counts[0]), np.zeros(len(final)), subsets.draws)
        ]
    pool = Pool(task.scores(strategy)[0], final, subsets)
    return lambda steps, counts: [pool.search(steps, counts)]


def _jointly(
    scores: Sequence[np.ndarray],
    finals: Sequence[np.ndarray],
    subsets: Subsets,
    weights: Sequence[float] | None,
    steps: Sequence[int],
    counts: Sequence[int],
) -> Sequence[Estimate]:
    return search_jointly(scores, finals, subsets, steps, counts, weights)


def _planning_pool(task: Task, strategy: str, seed: int) -> Pool:
    """The pool that plans are made on.

    Several rewards are combined once over the whole pool rather than among the survivors, and what
    is maximised is the mean of the rewards, each in deviations within a prompt.
    """
    final, *others = task.finals
    prompts, images = final.shape
    subsets = planning_subsets(prompts, images, seed)
    scores = task.scores(strategy)
    if not task.joint:
        return Pool(scores[0], final, subsets)
    together = np.full(scores[0].shape, np.nan)
    for step in task.steps(strategy):
        looks = np.stack([values[:, :, step] for values in scores])
        together[:, :, step] = combine(looks, task.weights)
    finals = np.stack([final, *others]).astype(np.float64)
    weights = np.ones(len(finals)) if task.weights is None else np.asarray(task.weights)
    deviation = finals.std(axis=2).mean(axis=1)
    deviation = np.where(deviation > 0, deviation, 1)
    values = np.tensordot(weights / weights.sum() / deviation, finals, axes=1)
    return Pool(together, combine(finals, task.weights), subsets, values)


def _described(one: Plan, costs: CostModel, seed: int) -> dict[str, Any]:
    mean, low, high = mean_interval(one.per_prompt, seed=seed)
    known = {"mean": mean, "low": low, "high": high}
    return {
        "budget": one.budget,
        "n": one.n,
        "checks": one.schedule.to_json(),
        "expected": {
            key: float(value) if math.isfinite(value) else None for key, value in known.items()
        },
        "expected_cost": costs.cost(one.n, one.schedule),
    }


def _check_scored(task: Task, strategy: str, schedule: Schedule) -> None:
    check_steps(schedule, task.costs.steps)
    for reward, scores in zip(task.rewards, task.scores(strategy), strict=True):
        for check in schedule.checks:
            if np.isnan(scores[0, 0, check.step]):
                raise UserError(f"schedule {schedule}: no {reward} rewards at step {check.step}")


def _note(n: int, pool: int) -> str:
    if n == 0:
        return "does not buy one candidate"
    return f"buys {n} candidates, the pool holds {pool}" if n > pool else ""
