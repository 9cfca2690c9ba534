"""What a budget affords."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from ttsnap.schedule import CostModel, Schedule, affords
from ttsnap.searching.meter import Meter

SCHEDULES = [Schedule(), Schedule.parse("2:0.4,6:0.4"), Schedule.parse("5:0.38")]


def test_a_meter_stops_what_was_not_planned() -> None:
    meter = Meter(CostModel(denoise=1.0, decode=0.5, reward=0.25, steps=4), budget=2.0)
    meter.charge(evaluations=1, decodes=1, scores=2)
    assert meter.spent == 2.0
    with pytest.raises(RuntimeError, match="exceed the budget"):
        meter.charge(scores=1)


def test_simulation_and_search_agree_on_a_budget_of_exactly_n_runs() -> None:
    """However the budget was written; 182 of 551 such budgets used to differ."""
    cases = 0
    for denoise, reward in product([0.1, 1 / 3, 9.9, 0.000371], [0.1, 0.3, 1.2]):
        costs = CostModel(denoise=denoise, decode=reward / 7, reward=reward, steps=12)
        for schedule, n in product(SCHEDULES, range(1, 17)):
            exact = sum(
                alive * Fraction(price)
                for alive, price in zip(
                    schedule.counts(n),
                    costs.prices([check.step for check in schedule.checks]),
                    strict=True,
                )
            )
            one_by_one = sum([costs.cost(1)] * n) if not schedule.checks else float(exact)
            for budget in (float(exact), costs.cost(n, schedule), one_by_one):
                assert Meter(costs, budget).affordable(schedule) == n
                assert costs.largest_n(budget, schedule) == n
                assert affords(budget, costs.cost(n, schedule))
                cases += 1
    assert cases == 1728


def test_what_is_left_is_counted_with_the_same_tolerance() -> None:
    meter = Meter(CostModel(denoise=0.1, decode=0.0, reward=0.0, steps=3), budget=0.3)
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert meter.affords(0.1 + 0.1 + 0.1)
    assert meter.count(0.1) == 3
    assert meter.count(0.1, spare=0.2) == 1
    assert meter.count(0.1, spare=0.4) == 0


def test_published_accounting_is_for_simulations_only() -> None:
    costs = CostModel(denoise=1.0, decode=0.5, reward=0.25, steps=4, accounting="ttsnap")
    assert Meter(costs, 2.0).costs.accounting == "corrected"
