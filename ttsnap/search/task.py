"""What every search method is given, and what it is charged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, Schedule

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Conditioning, Sampler
    from ttsnap.rewards.base import Reward


@dataclass(frozen=True)
class Progress:
    """Where a search stands, after every denoiser evaluation of a batch and after every look.

    Attributes:
        step: step index just reached.
        alive: candidates not pruned.
        n: candidates started.
        best: highest score at the latest look, None before the first.
        spent: so far, in the unit of the costs.
        budget: allowed, in the same.
    """

    step: int
    alive: int
    n: int
    best: float | None
    spent: float
    budget: float


@dataclass(frozen=True)
class Task:
    """One prompt to be searched, with which models and for how much.

    Attributes:
        sampler: draws the images.
        conditioning: the encoded prompt, its only row.
        prompt: its text, for the rewards.
        reward: scores final images and picks the winner.
        costs: prices a candidate; the corrected accounting is used whatever it says.
        budget: what the search may spend, in the unit of the costs.
        seed_of: noise seed of candidate 0, 1, …
        model: name of the model, for the records.
        batch_size: candidates denoised at once; changes images by rounding at most.
        observe: called with the :class:`Progress`.
    """

    sampler: Sampler
    conditioning: Conditioning
    prompt: str
    reward: Reward
    costs: CostModel
    budget: float
    seed_of: Callable[[int], int]
    model: str = ""
    batch_size: int = 64
    observe: Callable[[Progress], None] = lambda progress: None

    def meter(self) -> Meter:
        """A meter that has spent nothing yet."""
        return Meter(replace(self.costs, accounting="corrected"), self.budget)


@dataclass
class Meter:
    """Counts what a search does, as it does it, and stops it before it overspends.

    Attributes:
        costs: price of each thing counted.
        budget: allowed, in their unit.
        evaluations: denoiser evaluations (NFE) of all candidates together.
        decodes: images decoded.
        scores: images scored.
    """

    costs: CostModel
    budget: float
    evaluations: int = 0
    decodes: int = 0
    scores: int = 0

    @property
    def spent(self) -> float:
        """Spent so far, in the unit of the costs."""
        return (
            self.evaluations * self.costs.denoise
            + self.decodes * self.costs.decode
            + self.scores * self.costs.reward
        )

    def charge(self, *, evaluations: int = 0, decodes: int = 0, scores: int = 0) -> None:
        """Count work that is about to be done.

        Raises:
            RuntimeError: the budget does not cover it: the method planned wrongly.
        """
        self.evaluations += evaluations
        self.decodes += decodes
        self.scores += scores
        if self.spent > self.budget and not math.isclose(self.spent, self.budget):
            raise RuntimeError(
                f"{self.spent} {self.costs.unit} would exceed the budget of {self.budget}"
            )

    def affordable(self, schedule: Schedule) -> int:
        """Largest number of candidates that the budget runs through ``schedule``.

        Raises:
            UserError: it is zero; names the smallest budget that is enough.
        """
        n = self.costs.largest_n(self.budget, schedule)
        if n == 0:
            raise UserError(
                f"budget of {self.budget:g} {self.costs.unit}: one candidate costs "
                f"{_round_up(self.costs.cost(1, schedule)):g}, the smallest budget that can be used"
            )
        return n


def _round_up(value: float, digits: int = 4) -> float:
    scale: float = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
