"""Reward against budget for best-of-N, TTSp and TTSnap on reward tensors, and plans for them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ttsnap.errors import UserError
from ttsnap.schedule import AT_PREVIEWS, DRAFT, CostModel, Schedule, check_steps, combine
from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.experiment import BEST, DRAFTS, TTSNAP, TTSP, Experiment
from ttsnap.simulation.joint import search_jointly
from ttsnap.simulation.montecarlo import Estimate, Floats, Pool, Subsets
from ttsnap.simulation.omega import BEST_OF_N, gains
from ttsnap.simulation.planner import (
    SUBSETS,
    WORTH_PRUNING,
    Plan,
    Planner,
    clearly_above,
    planning_subsets,
)
from ttsnap.stats import mean_interval
from ttsnap.store.receipts import write_receipt

ERROR_SHARE, MOST_DRAWS = 0.1, 16_384
SIZES = 16  # of best-of-N, at which it is simulated where there is no exact expectation

Schedules = Mapping[tuple[str, float], tuple[str, Schedule]]
"""By strategy and budget: the strategy that it leaves the search to, by most to itself."""


def plan_schedules(
    experiment: Experiment,
    budgets: Sequence[float],
    seed: int,
    *,
    steps: Sequence[int] | None = None,
    observe: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Plan TTSp and TTSnap for every budget, and one robust schedule for all of them.

    Where TTSnap's best schedule is not clearly expected to find more than TTSp's, it is planned as
    TTSp. Where checks can look in several ways, each way is planned, and ``best`` names the best.

    Args:
        experiment: with the prompts to plan on, and no others.
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
    for part in experiment.parts():
        planned: dict[str, Sequence[Plan]] = {}
        for strategy in part.pruning:
            allowed = part.steps(strategy)
            costs = part.costs_of(strategy)
            planner = Planner(
                _planning_pool(part, strategy, seed),
                costs,
                allowed if steps is None else sorted({*allowed} & {DRAFT, *steps}),
            )
            found = []
            for one in planner.plans(budgets):
                found.append(one)
                observe()
            planned[strategy] = found
            untouched = strategy.replace(TTSNAP, TTSP)
            about = {"strategy": strategy, "reward": part.prunes_by}
            plans += [
                about | {"run_as": strategy} | _described(one, costs, seed)
                if strategy == untouched or _surely_better(one, other)
                else about | {"run_as": untouched} | _described(other, costs, seed)
                for one, other in zip(found, planned[untouched], strict=True)
            ]
            schedule = planner.robust(found)
            robust.append(
                about
                | {
                    "checks": schedule.to_json(),
                    "budgets": [budgets[0], budgets[-1]],
                    "expected": [
                        {"budget": budget}
                        | _described(planner.plan(budget, schedule), costs, seed)["expected"]
                        for budget in budgets
                    ],
                }
            )
    return {"plans": _with_best(plans, experiment), "robust": robust}


def _surely_better(one: Plan, other: Plan) -> bool:
    """Whether a plan finds clearly more than another, prompt by prompt, as one must that prunes."""
    return clearly_above(one.per_prompt - other.per_prompt, WORTH_PRUNING)


def _with_best(plans: list[dict[str, Any]], experiment: Experiment) -> list[dict[str, Any]]:
    """Plans, and for every reward and budget the best of them where there are several looks."""
    among: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for one in plans if experiment.several else ():
        among[one["reward"], one["budget"]].append(one)
    return plans + [reduce(_better, some) | {"strategy": BEST} for some in among.values()]


def _better(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Which of two plans for a budget is expected to find more, the first of equals."""
    return other if other["expected"]["mean"] > one["expected"]["mean"] else one


def given_plan(
    experiment: Experiment, schedule: Schedule, budgets: Sequence[float], seed: int
) -> dict[str, Any]:
    """As :func:`plan_schedules` for a schedule that is given."""
    plans, robust = [], []
    drafted = schedule.drafted
    if drafted and not experiment.drafts:
        raise UserError(f"schedule {schedule}: looks at drafts, of which there are no rewards")
    for part in experiment.parts():
        for strategy in part.pruning:
            if strategy.startswith(DRAFTS) != drafted:
                continue
            _check_scored(part, strategy, schedule)
            costs = part.costs_of(strategy)
            planner = Planner(_planning_pool(part, strategy, seed), costs, ())
            about = {"strategy": strategy, "reward": part.prunes_by}
            plans += [
                about
                | {"run_as": strategy}
                | _described(planner.plan(budget, schedule), costs, seed)
                for budget in sorted(set(budgets))
                if costs.largest_n(budget, schedule)
            ]
            robust.append(about | {"checks": schedule.to_json()})
    return {"plans": _with_best(plans, experiment), "robust": robust}


def write_plan(
    path: Path, planned: Mapping[str, Any], experiment: Experiment, provenance: Mapping[str, Any]
) -> None:
    """Write :func:`plan_file`."""
    write_receipt(path, plan_file(planned, experiment, provenance))


def plan_file(
    planned: Mapping[str, Any], experiment: Experiment, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """What :func:`plan_schedules` found for ``experiment`` as a plan file has it."""
    costs = experiment.costs
    return {
        "kind": "plan",
        "accounting": costs.accounting,
        "unit": costs.unit,
        "costs": {part: getattr(costs, part) for part in ("denoise", "decode", "reward", "preview")}
        | ({} if costs.draft is None else {"draft": costs.draft}),
        "steps": costs.steps,
        **planned,
        "provenance": {
            **provenance,
            "rewards_sha256": experiment.sha256(),
            "subsets": SUBSETS,
            "expected": "on the prompts planned on, which flatters plans",
        },
    }


def schedules_of(planned: Mapping[str, Any], prunes_by: str) -> Schedules:
    """The schedules in a plan for one reward, or for ``joint``."""
    return {
        (one["strategy"], one["budget"]): (
            one.get("run_as", one["strategy"]),
            Schedule.from_json(one["checks"]),
        )
        for one in planned["plans"]
        if one["reward"] == prunes_by
    }


@dataclass(frozen=True)
class Curves:
    """Expected final reward of each strategy at each budget.

    Attributes:
        table: strategy, look (decode or preview), reward, prunes_by (a reward or ``joint``),
            budget, n (what the budget buys), mean, low, high (95 % bootstrap interval over
            prompts), error (Monte Carlo), schedule, run_as (the strategy that the plan leaves it
            to), note (why a mean is missing, else empty).
        omega: strategy, look, reward, prunes_by and what :func:`gains` finds.
        per_prompt: strategy and reward -> (P, B); NaN where it cannot be simulated.
    """

    table: pd.DataFrame
    omega: pd.DataFrame
    per_prompt: dict[tuple[str, str], Floats]


def simulate_part(
    experiment: Experiment,
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
        experiment: that prunes by one thing (see :meth:`Experiment.parts`).
        schedules: for every strategy and budget.
        budgets: per prompt, in the unit of the costs.
        draws: random subsets per prompt, the same for all strategies and budgets.
        seed: of the subsets and the bootstrap.
        observe: called when another budget of another strategy is done.

    Raises:
        UserError: a check beyond the steps or at one without rewards; ω is undefined.
    """
    budgets = sorted(set(budgets))
    prompts, pool = experiment.finals[0].shape
    subsets = Subsets(prompts, pool, draws, seed)
    # Where a schedule was given that looks at drafts, strategies that see none have nothing to run.
    planned_for = {name for name, _ in schedules}
    strategies = [name for name in experiment.strategies if name in planned_for]
    per_prompt = {
        (name, reward): np.full((prompts, len(budgets)), np.nan)
        for name in (BEST_OF_N, *strategies)
        for reward in experiment.rewards
    }
    searchers = {
        name: _searcher(experiment, name, subsets) for name in (BEST_OF_N, *experiment.pruning)
    }
    rows = []
    for name in (BEST_OF_N, *strategies):
        for column, budget in enumerate(budgets):
            planned = (name, Schedule()) if name == BEST_OF_N else schedules.get((name, budget))
            runs, schedule = planned or (name, Schedule())
            n = experiment.costs_of(runs).largest_n(budget, schedule)
            found: Sequence[Estimate | None] = [None] * len(experiment.rewards)
            if planned is not None and 0 < n <= pool:
                _check_scored(experiment, runs, schedule)
                steps = [check.step for check in schedule.checks]
                found = searchers[runs](steps, schedule.counts(n))
            for reward, estimate in zip(experiment.rewards, found, strict=True):
                if estimate is not None:
                    per_prompt[name, reward][:, column] = estimate.mean
                rows.append(
                    {
                        "strategy": name,
                        "reward": reward,
                        "prunes_by": experiment.prunes_by,
                        "budget": budget,
                        "n": n,
                        "error": estimate.error if estimate else np.nan,
                        "schedule": str(schedule),
                        "run_as": runs,
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
    columns = "strategy look reward prunes_by budget n mean low high error schedule run_as note"
    return Curves(
        _looked(table, experiment)[columns.split()],
        _looked(_omega(experiment, per_prompt, budgets, subsets, seed), experiment),
        per_prompt,
    )


def _looked(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """A table with the look of each strategy in a column of its own."""
    table.insert(1, "look", table.strategy.map(experiment.look_of))
    table["strategy"] = table.strategy.str.removesuffix(AT_PREVIEWS)
    return table


def simulate_parts(
    experiment: Experiment,
    planned: Mapping[str, Any],
    budgets: Sequence[float],
    draws: int,
    seed: int,
    *,
    observe: Callable[[], None] = lambda: None,
) -> Curves:
    """:func:`simulate_part` of everything that prunes by itself, by the schedules of a plan."""
    found = [
        simulate_part(
            part, schedules_of(planned, part.prunes_by), budgets, draws, seed, observe=observe
        )
        for part in experiment.parts()
    ]
    return Curves(
        pd.concat([one.table for one in found], ignore_index=True),
        pd.concat([one.omega for one in found], ignore_index=True),
        {key: values for one in found for key, values in one.per_prompt.items()},
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
    experiment: Experiment,
    per_prompt: Mapping[tuple[str, str], Floats],
    budgets: Sequence[float],
    subsets: Subsets,
    seed: int,
) -> pd.DataFrame:
    """:func:`gains` for every reward."""
    pool = subsets.pool
    if experiment.joint:
        largest = min(pool, max(1, 4 * experiment.costs.largest_n(budgets[-1])))
        sizes = sorted({round(size) for size in np.geomspace(1, largest, SIZES)})
        search = _searcher(experiment, BEST_OF_N, subsets)
        estimates = [search([], [size]) for size in sizes]
        ladders = {
            reward: {size: found[i].mean for size, found in zip(sizes, estimates, strict=True)}
            for i, reward in enumerate(experiment.rewards)
        }
    else:
        ladders = {
            reward: {size: expected_best(pair.final, size) for size in range(1, pool + 1)}
            for reward, pair in experiment.rewards.items()
        }
    tables = []
    for reward, ladder in ladders.items():
        curves = {name: values for (name, of), values in per_prompt.items() if of == reward}
        untouched = {name: name.replace(TTSNAP, TTSP) for name in curves if TTSNAP in name}
        found = gains(curves, ladder, budgets, against=untouched, seed=seed)
        found.insert(1, "reward", reward)
        found.insert(2, "prunes_by", experiment.prunes_by)
        tables.append(found)
    return pd.concat(tables, ignore_index=True)


def _searcher(
    experiment: Experiment, strategy: str, subsets: Subsets
) -> Callable[[Sequence[int], Sequence[int]], Sequence[Estimate]]:
    """What estimates every reward for (steps, counts)."""
    finals = experiment.finals
    if experiment.joint:
        scores = experiment.scores(strategy)
        return partial(_jointly, scores, finals, subsets, experiment.weights)
    (final,) = finals
    if strategy == BEST_OF_N:
        return lambda steps, counts: [
            Estimate(expected_best(final, counts[0]), np.zeros(len(final)), subsets.draws)
        ]
    pool = Pool(experiment.scores(strategy)[0], final, subsets)
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


def _planning_pool(experiment: Experiment, strategy: str, seed: int) -> Pool:
    """The pool that plans are made on.

    Several rewards are combined once over the whole pool rather than among the survivors, and what
    is maximised is the mean of the rewards, each in deviations within a prompt.
    """
    final, *others = experiment.finals
    prompts, images = final.shape
    subsets = planning_subsets(prompts, images, seed)
    scores = experiment.scores(strategy)
    if not experiment.joint:
        return Pool(scores[0], final, subsets)
    together = np.full(scores[0].shape, np.nan)
    for step in experiment.steps(strategy):
        looks = np.stack([values[:, :, step] for values in scores])
        together[:, :, step] = combine(looks, experiment.weights)
    finals = np.stack([final, *others]).astype(np.float64)
    weights = np.ones(len(finals)) if experiment.weights is None else np.asarray(experiment.weights)
    deviation = finals.std(axis=2).mean(axis=1)
    deviation = np.where(deviation > 0, deviation, 1)
    values = np.tensordot(weights / weights.sum() / deviation, finals, axes=1)
    return Pool(together, combine(finals, experiment.weights), subsets, values)


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


def _check_scored(experiment: Experiment, strategy: str, schedule: Schedule) -> None:
    check_steps(schedule, experiment.costs.steps)
    looks = [check for check in schedule.checks if check.step != DRAFT]
    if looks != list(schedule.checks) and not strategy.startswith(DRAFTS):
        raise UserError(f"schedule {schedule}: {strategy} looks at no drafts")
    for reward, scores in zip(experiment.rewards, experiment.estimates(strategy), strict=True):
        for check in looks:
            if np.isnan(scores[0, 0, check.step]):
                raise UserError(f"schedule {schedule}: no {reward} rewards at step {check.step}")


def _note(n: int, pool: int) -> str:
    if n == 0:
        return "does not buy one candidate"
    return f"buys {n} candidates, the pool holds {pool}" if n > pool else ""
