"""Counts what a search does, as it does it, and stops it before it overspends."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

from ttsnap.errors import UserError
from ttsnap.schedule import TOLERANCE, CostModel, Schedule, affords


@dataclass
class Meter:
    """What is spent of a budget, and what is left.

    A budget in seconds is spent by the clock. Prices are then replaced by those that are measured
    meanwhile, so that what is planned next fits the machine; what has begun is finished.

    Attributes:
        costs: price of each thing counted, always by the corrected accounting.
        budget: allowed, in their unit.
        evaluations: denoiser evaluations (NFE) of all candidates together; one of a draft that
            leaves guidance out is a half.
        decodes: images decoded in full.
        previews: estimates decoded by the preview decoder.
        scores: images scored, each by all rewards.
        began: when the clock started, as ``time.perf_counter`` tells it.
    """

    costs: CostModel
    budget: float
    evaluations: float = 0
    decodes: int = 0
    previews: int = 0
    scores: int = 0
    began: float = field(default_factory=time.perf_counter)
    _measured: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.costs = replace(self.costs, accounting="corrected")

    @property
    def timed(self) -> bool:
        """Whether the budget is wall clock."""
        return self.costs.unit == "seconds"

    @property
    def seconds(self) -> float:
        """Wall clock since it began."""
        return time.perf_counter() - self.began

    @property
    def spent(self) -> float:
        """Spent so far, in the unit of the costs."""
        if self.timed:
            return self.seconds
        return (
            self.evaluations * self.costs.denoise
            + self.decodes * self.costs.decode
            + self.previews * (self.costs.preview or 0.0)
            + self.scores * self.costs.reward
        )

    @property
    def left(self) -> float:
        """What may still be spent."""
        return max(0.0, self.budget - self.spent)

    def affords(self, cost: float) -> bool:
        """Whether what is left of the budget covers ``cost``."""
        return affords(self.budget, self.spent + cost)

    def count(self, price: float, spare: float = 0.0) -> int:
        """How many things at ``price`` are paid for by what is left, if ``spare`` stays left."""
        return int(max(0.0, self.left - spare) / price * (1 + TOLERANCE))

    def charge(
        self, *, evaluations: float = 0, decodes: int = 0, previews: int = 0, scores: int = 0
    ) -> None:
        """Count work that is about to be done.

        Raises:
            RuntimeError: the budget does not cover it: the method planned wrongly.
        """
        self.evaluations += evaluations
        self.decodes += decodes
        self.previews += previews
        self.scores += scores
        if not self.timed and not self.affords(0):
            raise RuntimeError(
                f"{self.spent} {self.costs.unit} would exceed the budget of {self.budget}"
            )

    def took(self, price: str, seconds: float, count: float) -> None:
        """Learn from work done what it costs, where seconds are what is paid with.

        Args:
            price: denoise, decode, preview or reward.
            seconds: that the work took.
            count: candidates that it was done for.
        """
        if self.timed:
            before, number = self._measured.get(price, (0.0, 0))
            self._measured[price] = total, number = before + seconds, number + count
            changed: dict[str, Any] = {price: total / number}
            self.costs = replace(self.costs, **changed)

    def affordable(self, schedule: Schedule = Schedule(), begun: int = 0) -> int:
        """Largest number of candidates that what is left runs through ``schedule``.

        Args:
            schedule: the checks.
            begun: of these candidates, how many have been to the first check already.

        Raises:
            UserError: nothing is spent yet and it is zero; names the smallest budget that is
                enough.
        """
        paid = begun * self.costs.prices([check.step for check in schedule.checks])[0]
        n = self.costs.largest_n(self.left + paid, schedule)
        if n == 0 and not self.evaluations:
            raise UserError(
                f"budget of {self.budget:g} {self.costs.unit}: one candidate costs "
                f"{_round_up(self.costs.cost(1, schedule)):g}, the smallest budget that can be used"
            )
        return n


def _round_up(value: float, digits: int = 4) -> float:
    scale: float = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
