"""What every search method is given, and what it is charged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

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
        best: highest score of a final image or, before the first, at the latest look; None before.
        spent: so far, in ``unit``.
        budget: allowed, in the same.
        unit: such as TFLOPs.
        round: of the method (a restart, a wave of candidates), counted from 1.
        message: what the method is doing, in a few words.
    """

    step: int
    alive: int
    n: int
    best: float | None
    spent: float
    budget: float
    unit: str
    round: int
    message: str


@dataclass(frozen=True)
class Task:
    """One prompt to be searched, with which models and for how much.

    Attributes:
        sampler: draws the images.
        conditioning: the encoded prompt, its only row.
        prompt: its text, for the rewards.
        rewards: score final images and pick the winner; several by the sum of their ranks.
        costs: prices; ``reward`` is that of one image by all rewards, and the corrected accounting
            is used whatever it says. NFE are prices of 1 an evaluation and 0 for all else.
        budget: what the search may spend, in the unit of the costs.
        seed_of: noise seed of candidate 0, 1, …
        verifiers: step index -> what looks at the estimates of that step in place of the rewards,
            in their order: their NARF checkpoints.
        model: name of the model, for the records.
        batch_size: candidates denoised at once; changes images by rounding at most.
        keep_finals: whether the result keeps every final image.
        observe: called with the :class:`Progress`.
        cancelled: asked before every batch. Once it says yes, the best so far is returned; if no
            image is finished by then, one is.
    """

    sampler: Sampler
    conditioning: Conditioning
    prompt: str
    rewards: tuple[Reward, ...]
    costs: CostModel
    budget: float
    seed_of: Callable[[int], int]
    verifiers: Mapping[int, tuple[Reward, ...]] = field(default_factory=dict)
    model: str = ""
    batch_size: int = 64
    keep_finals: bool = False
    observe: Callable[[Progress], None] = lambda progress: None
    cancelled: Callable[[], bool] = lambda: False

    @property
    def reward(self) -> Reward:
        """The first reward, whose score is shown."""
        return self.rewards[0]

    def meter(self) -> Meter:
        """A meter that has spent nothing yet."""
        return Meter(replace(self.costs, accounting="corrected"), self.budget)


@dataclass
class Meter:
    """Counts what a search does, as it does it, and stops it before it overspends.

    A budget in seconds is spent by the clock. Prices are then replaced by those that are measured
    meanwhile, so that what is planned next fits the machine; what has begun is finished.

    Attributes:
        costs: price of each thing counted.
        budget: allowed, in their unit.
        evaluations: denoiser evaluations (NFE) of all candidates together.
        decodes: images decoded in full.
        previews: estimates decoded by the preview decoder.
        scores: images scored, each by all rewards.
        began: when the clock started, as ``time.perf_counter`` tells it.
    """

    costs: CostModel
    budget: float
    evaluations: int = 0
    decodes: int = 0
    previews: int = 0
    scores: int = 0
    began: float = field(default_factory=time.perf_counter)
    _measured: dict[str, tuple[float, int]] = field(default_factory=dict, repr=False)

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
        total = self.spent + cost
        return total <= self.budget or math.isclose(total, self.budget)

    def charge(
        self, *, evaluations: int = 0, decodes: int = 0, previews: int = 0, scores: int = 0
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

    def took(self, price: str, seconds: float, count: int) -> None:
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
        n = self.costs.largest_n((self.left + paid) * (1 + 1e-9), schedule)
        if n == 0 and not self.evaluations:
            raise UserError(
                f"budget of {self.budget:g} {self.costs.unit}: one candidate costs "
                f"{_round_up(self.costs.cost(1, schedule)):g}, the smallest budget that can be used"
            )
        return n


def _round_up(value: float, digits: int = 4) -> float:
    scale: float = 10.0 ** (digits - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
