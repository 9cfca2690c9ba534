"""Choosing the schedule: how many checks, at which steps, how many candidates at each.

A plan is found budget by budget. From best-of-N on, checks are added one at a time where they help
most, and after each addition steps and counts climb, one after the other, to the best expected
final reward that the budget allows. All schedules are compared on the same random subsets. What is
searched over are whole numbers of candidates, so that a plan leaves nothing of its budget to
rounding. Of two plans the one with fewer checks is taken, unless the gain of more is clearly above
its error over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, pairwise
from operator import mul

import numpy as np

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule, affords
from ttsnap.simulation.montecarlo import Floats, Pool, Subsets

MOST_CHECKS = 5
SUBSETS = 25_600  # of all prompts, while searching: their error is far below that over prompts
# Standard errors over prompts that a gain must exceed, to be worth pruning at all, and to be worth
# more checks. Each is the best of many that were tried, so that the best of mere noise passes one.
WORTH_PRUNING, WORTH_MORE = 2.0, 1.0
STARTS = 1  # places from which a climb with one more check sets out
STRIDES = (0.6, 0.8, 1.25, 1.6)  # by which counts are varied, besides by one
NOTHING = -np.inf


@dataclass(frozen=True)
class Design:
    """Steps of the checks, and candidates left after each (fewer and fewer, one at least)."""

    steps: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What to run at a budget.

    Attributes:
        budget: in the unit of the costs.
        n: candidates to start, as many as the budget runs through the schedule.
        schedule: the checks.
        per_prompt: (P,) expected final reward, on the prompts the plan was chosen on.
    """

    budget: float
    n: int
    schedule: Schedule
    per_prompt: Floats


def planning_subsets(prompts: int, pool: int, seed: int) -> Subsets:
    """As many subsets of so many pools as planning needs."""
    return Subsets(prompts, pool, -(-SUBSETS // prompts), seed)


class Planner:
    """Plans for one pool of rewards and one cost model.

    Args:
        pool: rewards of the prompts to plan on.
        costs: prices a candidate.
        steps: step indices that a check may use.

    Raises:
        UserError: a check at one of them would cost nothing.
    """

    def __init__(self, pool: Pool, costs: CostModel, steps: Iterable[int]) -> None:
        self.pool, self.costs = pool, costs
        self.images = pool.subsets.pool
        self.steps = sorted(step for step in steps if step < costs.steps - 1)
        free = [step for step in self.steps if costs.prices([step])[0] <= 0]
        if free:
            raise UserError(
                f"a check at step {free[0]} costs nothing, so that any number of candidates is "
                "affordable; give a cost of a look above 0, or the corrected accounting"
            )
        self._values: dict[tuple[tuple[int, ...], tuple[int, ...]], Floats] = {}

    def plans(self, budgets: Sequence[float]) -> Iterator[Plan]:
        """The best plan for each of ``budgets``, which ascend; it also depends on those before.

        Raises:
            UserError: a budget does not afford one candidate, or more than the pool holds even
                without any check.
        """
        for budget in budgets:
            self._require(budget)
        found: list[Design] = []
        before = 0.0
        for budget in budgets:
            growth = budget / before if before else 1.0
            found = self._designs(budget, [_scaled(design, growth) for design in found])
            before = budget
            yield self.plan(budget, self._schedule(budget, self._simplest(budget, found)))

    @property
    def tried(self) -> int:
        """How many designs were simulated so far."""
        return len(self._values)

    def plan(self, budget: float, schedule: Schedule) -> Plan:
        """``schedule`` as a plan for ``budget``; NaN rewards if the pool holds too few images."""
        n = self.costs.largest_n(budget, schedule)
        if n > self.images:
            return Plan(budget, n, schedule, np.full(self.pool.subsets.prompts, np.nan))
        steps = tuple(check.step for check in schedule.checks)
        return Plan(budget, n, schedule, self._value(steps, tuple(schedule.counts(n))))

    def robust(self, plans: Sequence[Plan]) -> Schedule:
        """The schedule among ``plans`` with the best mean reward over all their budgets.

        One with fewer checks is preferred as in a plan. Schedules that the pool cannot show at
        every budget do not count; best-of-N always does.
        """
        budgets = [plan.budget for plan in plans]
        best: dict[int, tuple[Floats, Schedule]] = {}
        for schedule in dict.fromkeys([Schedule(), *(plan.schedule for plan in plans)]):
            values = np.mean([self.plan(b, schedule).per_prompt for b in budgets], axis=0)
            checks = len(schedule.checks)
            if np.isfinite(values).all() and (
                checks not in best or values.mean() > best[checks][0].mean()
            ):
                best[checks] = values, schedule
        ordered = [best[checks] for checks in sorted(best)]
        return ordered[_clearly_best([values for values, _ in ordered])][1]

    def _require(self, budget: float) -> None:
        n = self.costs.largest_n(budget)
        if n == 0:
            raise UserError(
                f"budget {budget:g}: cannot be planned, one candidate costs {self.costs.cost(1):g}"
            )
        if n > self.images:
            raise UserError(
                f"budget {budget:g}: cannot be planned, it buys {n} candidates and the pool "
                f"holds {self.images}"
            )

    def _designs(self, budget: float, hints: Sequence[Design]) -> list[Design]:
        """The best design found with 0, 1, 2, … checks, as long as more are any better."""
        found = [Design()]
        for checks in range(1, MOST_CHECKS + 1):
            starts = sorted(
                self._with_one_more(budget, found[-1]),
                key=lambda design: self._score(budget, design),
                reverse=True,
            )[:STARTS]
            starts += [hint for hint in hints if len(hint.steps) == checks]
            climbed = [self._climb(budget, start) for start in starts]
            best = max(climbed, key=lambda design: self._score(budget, design), default=None)
            if best is None or self._score(budget, best) <= self._score(budget, found[-1]):
                break
            found.append(best)
        return found

    def _simplest(self, budget: float, designs: Sequence[Design]) -> Design:
        """Of designs with more and more checks the first that none is clearly better than."""
        values = [
            self._value(design.steps, (self._affordable(budget, design), *design.kept))
            for design in designs
        ]
        return designs[_clearly_best(values)]

    def _climb(self, budget: float, design: Design) -> Design:
        """Vary one step or one count after the other, until none of them is better changed."""
        unchanged = 0
        for vary in cycle(self._variations(len(design.steps))):
            best = max((design, *vary(design)), key=lambda other: self._score(budget, other))
            unchanged = unchanged + 1 if best == design else 0
            if unchanged == 2 * len(design.steps):
                return design
            design = best
        return design

    def _variations(self, checks: int) -> list[Callable[[Design], Iterator[Design]]]:
        """For every step and every count the designs that differ in it; not all are possible."""

        def other_steps(design: Design, place: int) -> Iterator[Design]:
            index = self.steps.index(design.steps[place])
            for step in self.steps[max(0, index - 2) : index + 3]:
                yield Design(_put(design.steps, place, step), design.kept)

        def other_counts(design: Design, place: int) -> Iterator[Design]:
            count = design.kept[place]
            for other in {count - 1, count + 1, *(round(count * by) for by in STRIDES)}:
                yield Design(design.steps, _put(design.kept, place, other))

        return [
            partial(vary, place=place)
            for place in range(checks)
            for vary in (other_steps, other_counts)
        ]

    def _with_one_more(self, budget: float, design: Design) -> Iterator[Design]:
        """``design`` with a check at another step, which halves the way in one of two manners."""
        alive = (self._affordable(budget, design), *design.kept)
        for step in set(self.steps) - set(design.steps):
            place = sum(other < step for other in design.steps)
            above = alive[place]
            below = design.kept[place] if place < len(design.kept) else 1
            for count in {math.isqrt(above * below), round(0.75 * above), round(0.4 * above)}:
                steps = (*design.steps[:place], step, *design.steps[place:])
                yield Design(steps, (*design.kept[:place], count, *design.kept[place:]))

    def _score(self, budget: float, design: Design) -> float:
        """Mean expected reward of a design; -inf if it is impossible."""
        if any(late <= early for early, late in pairwise(design.steps)):
            return NOTHING
        counts = (self._affordable(budget, design), *design.kept, 0)
        if counts[0] > self.images:
            return NOTHING
        if any(after >= before for before, after in pairwise(counts)):
            return NOTHING
        return float(self._value(design.steps, counts[:-1]).mean())

    def _value(self, steps: tuple[int, ...], counts: tuple[int, ...]) -> Floats:
        if (steps, counts) not in self._values:
            self._values[steps, counts] = self.pool.search(steps, counts).mean
        return self._values[steps, counts]

    def _affordable(self, budget: float, design: Design) -> int:
        """Candidates to start, so that ``design.kept`` of them can go on as designed."""
        first, *later = self.costs.prices(design.steps)
        spent = sum(map(mul, later, design.kept))
        count = math.floor((budget - spent) / first)
        return count + affords(budget, (count + 1) * first + spent)  # lost to rounding alone

    def _schedule(self, budget: float, design: Design) -> Schedule:
        return Schedule.leaving(design.steps, (self._affordable(budget, design), *design.kept))


def _clearly_best(values: Sequence[Floats]) -> int:
    """Index of the first of ``values`` (P,), best-of-N's first, that none after exceeds clearly."""
    chosen = 0
    for index, other in enumerate(values):
        if clearly_above(other - values[chosen], WORTH_MORE if chosen else WORTH_PRUNING):
            chosen = index
    return chosen


def clearly_above(gain: Floats, errors: float) -> bool:
    """Whether a gain (P,) is above 0 by more than so many standard errors over prompts.

    The error of a single prompt is unknown, so that nothing is clear there.
    """
    return len(gain) > 1 and bool(gain.mean() > errors * gain.std(ddof=1) / math.sqrt(len(gain)))


def _scaled(design: Design, by: float) -> Design:
    return Design(design.steps, tuple(max(1, round(by * count)) for count in design.kept))


def _put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
