"""Pruning schedules and their cost, shared by the simulation and the live search.

The rules here make both keep the same candidates: how many survive a check
(:meth:`Check.survivors`), which (:func:`keep_best`), and what several rewards add up to
(:func:`combine`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, PositiveFloat, PositiveInt, ValidationError

from ttsnap.errors import UserError

if TYPE_CHECKING:
    from ttsnap.config import CheckSettings

Accounting = Literal["corrected", "ttsnap"]

AT_PREVIEWS = "@preview"
"""Ends the name of a reward that sees previews at checks, and of a strategy or method by it."""

DRAFT = -1
"""Step index of a look at a candidate's draft, which is taken before its first step."""

NEAR = 1.25  # ratio of budgets up to which the plan for one serves the other
TOLERANCE = 1e-9  # share of a budget that sums of prices may exceed it by, as rounding does


def split_look(name: str) -> tuple[str, str]:
    """The name of a strategy, method or reward without its look, and ``@preview`` if it ends so."""
    bare = name.removesuffix(AT_PREVIEWS)
    return bare, name[len(bare) :]


def look_suffixes(looks: Sequence[str]) -> list[str]:
    """What names of rewards end in for each of a model's looks: nothing for the usual one."""
    return ["", AT_PREVIEWS][: len(looks)]


@dataclass(frozen=True)
class Check:
    """Keep the best share ``keep``, in (0, 1], of the candidates alive at step index ``step``.

    At ``DRAFT`` it is their drafts that are looked at.
    """

    step: int
    keep: float

    @classmethod
    def leaving(cls, kept: int, count: int, step: int) -> Self:
        """The check that leaves ``kept`` of ``count`` candidates, its share in few decimals."""
        checks = (cls(step, round(kept / count, digits)) for digits in (2, 3, 4, 6, 9))
        return next(check for check in checks if check.keep and check.survivors(count) == kept)

    def survivors(self, count: int) -> int:
        """Number kept of ``count`` candidates: count x keep to the nearest, one of any at least."""
        return min(count, max(1, math.floor(count * self.keep + 0.5)))


@dataclass(frozen=True)
class Schedule:
    """Checks in the order of their steps; no checks at all is best-of-N."""

    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        steps = [check.step for check in self.checks]
        if steps != sorted(set(steps)):
            raise UserError(f"schedule {self}: check steps must increase")
        for check in self.checks:
            if not 0 < check.keep <= 1:
                raise UserError(f"schedule {self}: keep must lie in (0, 1], not {check.keep}")
            if check.step < DRAFT:
                raise UserError(f"schedule {self}: steps count from 0, not {check.step}")

    @classmethod
    def of(cls, checks: Iterable[CheckSettings]) -> Self:
        """The schedule that settings describe."""
        return cls(tuple(Check(check.step, check.keep) for check in checks))

    @classmethod
    def from_json(cls, checks: Iterable[Mapping[str, Any]]) -> Self:
        """The schedule that a plan file lists as ``[{"step": …, "keep": …}, …]``."""
        return cls(tuple(Check(check["step"], check["keep"]) for check in checks))

    def to_json(self) -> list[dict[str, Any]]:
        """What :meth:`from_json` reads."""
        return [{"step": check.step, "keep": check.keep} for check in self.checks]

    @classmethod
    def leaving(cls, steps: Sequence[int], counts: Sequence[int]) -> Self:
        """The schedule with ``counts`` alive: those drawn, then those left after each check."""
        pairs = zip(steps, pairwise(counts), strict=True)
        return cls(tuple(Check.leaving(kept, count, step) for step, (count, kept) in pairs))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"2:0.4,6:0.4"`` or ``"draft:0.25,6:0.4"``; the empty string is best-of-N."""
        try:
            pairs = [part.split(":") for part in text.split(",") if part.strip()]
            checks = tuple(Check(_read_step(step), float(keep)) for step, keep in pairs)
        except ValueError:
            raise UserError(f"schedule {text!r}: expected STEP:KEEP, … as in 2:0.4,6:0.4") from None
        return cls(checks)

    def __str__(self) -> str:
        return ",".join(
            f"{'draft' if check.step == DRAFT else check.step}:{check.keep}"
            for check in self.checks
        )

    @property
    def drafted(self) -> bool:
        """Whether it looks at drafts."""
        return any(check.step == DRAFT for check in self.checks)

    def counts(self, n: int) -> list[int]:
        """Candidates alive: first ``n``, then what is left after each check."""
        alive = [n]
        for check in self.checks:
            alive.append(check.survivors(alive[-1]))
        return alive


def _read_step(text: str) -> int:
    if text.strip() == "draft":
        return DRAFT
    step = int(text)
    if step < 0:
        raise UserError(f"schedule: steps count from 0, not {step}")
    return step


def keep_best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices (count,) of the highest of ``scores`` (n,), ascending; ties go to the lower index."""
    order = np.lexsort((np.arange(len(scores)), -scores))
    return np.sort(order[:count])


def combine(values: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """One score for several rewards, comparable among these candidates only.

    Args:
        values: (R, ..., n), the rewards of the n candidates alive.
        weights: one per reward, for the sum of their z-scores. Without them ranks are added up,
            which no reward's scale can dominate; equal rewards share their mean rank, so that who
            is at least as good by all rewards and better by one is better.

    Returns:
        (..., n), the higher the better.
    """
    if weights is None:
        from scipy.stats import rankdata

        return (1 - rankdata(-values, axis=-1)).sum(axis=0)
    deviation = values.std(axis=-1, keepdims=True)
    z = (values - values.mean(axis=-1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    return np.tensordot(np.asarray(weights, np.float64), z, axes=1)


def affords(budget: float, cost: float) -> bool:
    """Whether ``budget`` covers ``cost``; simulation, planner and live search ask nobody else."""
    return cost <= budget * (1 + TOLERANCE)


@dataclass(frozen=True)
class CostModel:
    """What a candidate costs, in one unit: TFLOPs (2 per multiply-add), seconds, evaluations.

    Attributes:
        denoise: one denoiser evaluation including its guidance.
        decode: latents of one candidate to pixels.
        reward: scoring one image with every reward in use.
        steps: denoising steps of a full run.
        accounting: ``corrected`` charges a check at step index s with the s + 1 evaluations that
            lead there, and candidates by the number that are really alive. ``ttsnap`` is what the
            simulation published with arXiv 2511.22242 does: it charges s, and steps - 1 for a
            pruned run that is finished (best-of-N pays all steps), and what one candidate costs
            follows from the product of the keep ratios, with no rounding to whole survivors.
        unit: of all prices and of budgets.
        preview: the decode that checks make do with; None where they decode in full.
        draft: evaluations of a draft, in those of ``denoise``; it is decoded and scored as a final
            image is. None where there are no drafts.
    """

    denoise: float
    decode: float
    reward: float
    steps: int
    accounting: Accounting = "corrected"
    unit: str = "TFLOPs"
    preview: float | None = None
    draft: float | None = None

    @classmethod
    def of(cls, prices: Mapping[str, Any], **others: Any) -> Self:
        """From prices by their names in a cost receipt: denoise, decode, score, preview if any."""
        denoise, decode, score = (float(prices[part]) for part in ("denoise", "decode", "score"))
        return cls(denoise, decode, score, preview=prices.get("preview"), **others)

    @property
    def verify(self) -> float:
        """A look at a final image: its decode and its score."""
        return self.decode + self.reward

    @property
    def check(self) -> float:
        """A look at a Tweedie estimate."""
        return (self.decode if self.preview is None else self.preview) + self.reward

    def look(self, step: int) -> float:
        """A look at ``step``, which for a draft is all that it takes.

        Raises:
            UserError: it is at drafts, and there are none.
        """
        if step != DRAFT:
            return self.check
        if self.draft is None:
            raise UserError("schedule: checks drafts, which take a draft's settings and price")
        return self.draft * self.denoise + self.verify

    def prices(self, steps: Sequence[int] = ()) -> list[float]:
        """What a candidate pays from one check at ``steps`` to the next, and then to the end."""
        uncharged = 1 if steps and self.accounting == "ttsnap" else 0
        ends = [*(step + 1 for step in steps), self.steps]
        evaluated = [0, *(max(0, end - uncharged) for end in ends)]
        looks = [*map(self.look, steps), self.verify]
        return [
            (after - before) * self.denoise + look
            for (before, after), look in zip(pairwise(evaluated), looks, strict=True)
        ]

    def cost(self, n: int, schedule: Schedule = Schedule()) -> float:
        """Cost of running ``n`` candidates through ``schedule`` and scoring those that finish."""
        alive: Sequence[float] = schedule.counts(n)
        if self.accounting == "ttsnap":
            alive = list(accumulate((check.keep for check in schedule.checks), mul, initial=n))
        return sum(map(mul, alive, self.prices([check.step for check in schedule.checks])))

    def largest_n(self, budget: float, schedule: Schedule = Schedule()) -> int:
        """Largest number of candidates whose cost stays within ``budget``; 0 if not even one."""
        low, high = 0, 1
        while affords(budget, self.cost(high, schedule)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            fits = affords(budget, self.cost(middle, schedule))
            low, high = (middle, high) if fits else (low, middle)
        return low


class _Check(BaseModel):
    step: int
    keep: float


class _Robust(BaseModel):
    strategy: str
    reward: str
    checks: list[_Check]


class _Planned(_Robust):
    run_as: str | None = None
    budget: PositiveFloat
    n: int


class _Draft(BaseModel):
    steps: PositiveInt
    guided: bool


class _Prices(BaseModel):
    denoise: PositiveFloat
    decode: float
    reward: float
    preview: float | None
    draft: float | None = None


class _Plan(BaseModel):
    """What is read of a plan file; there is more in it for people."""

    kind: Literal["plan"]
    steps: int
    unit: str
    costs: _Prices
    draft: _Draft | None = None
    plans: list[_Planned]
    robust: list[_Robust]


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan file, as ``ttsnap plan`` writes it.

    Raises:
        UserError: there is none, or it is something else.
    """
    try:
        found = json.loads(path.read_bytes())
        _Plan.model_validate(found, strict=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no plan here") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            f"{path}: not a plan, as `ttsnap plan` writes it: {place}: {first['msg']}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a plan: {error}") from None
    return dict(found)


def planned_schedule(
    plan: Mapping[str, Any], strategy: str, budget: float, *, reward: str, costs: CostModel
) -> tuple[str, Schedule]:
    """What ``plan`` says to run at a budget: the plan of the nearest budget that it has.

    A budget more than a quarter below the smallest or above the largest gets the robust schedule.

    Args:
        plan: of :func:`read_plan`.
        strategy: ``ttsp`` or ``ttsnap``, at previews ``ttsp@preview``, or ``best``.
        budget: in the unit of ``costs``. Where prices are not those of the plan, budgets are equal
            that buy as many full runs.
        reward: that prunes, or ``joint``.
        costs: of the sampler that is to run it.

    Returns:
        The strategy that is to run, which is another one where that is expected to find more, and
        its schedule.

    Raises:
        UserError: the plan has nothing for the strategy and reward, or is for other steps.
    """
    if plan["steps"] != costs.steps:
        raise UserError(f"plan: made for {plan['steps']} steps, the sampler takes {costs.steps}")
    fitting, robust = (
        [one for one in plan[kind] if one["strategy"] == strategy and one["reward"] == reward]
        for kind in ("plans", "robust")
    )
    if not fitting:
        raise UserError(f"plan: nothing for {strategy} and {reward}")
    then = CostModel(**plan["costs"], steps=plan["steps"])
    budget *= then.cost(1) / costs.cost(1)
    nearest = min(fitting, key=lambda one: abs(math.log(one["budget"] / budget)))
    near = 1 / NEAR <= nearest["budget"] / budget <= NEAR
    inside = fitting[0]["budget"] <= budget <= fitting[-1]["budget"]
    chosen = nearest if near or inside or not robust else robust[0]
    return chosen.get("run_as") or strategy, Schedule.from_json(chosen["checks"])


def budget_range(text: str) -> list[float]:
    """Read ``"400:4000:200"`` (first, last included, spacing) or ``"400,800"``.

    Raises:
        UserError: if it is neither, or if not all budgets are positive and finite.
    """
    try:
        if ":" in text:
            first, last, spacing = (float(part) for part in text.split(":"))
            count = math.floor((last - first) / spacing + 1e-9) + 1
            budgets = [first + index * spacing for index in range(count)]
        else:
            budgets = [float(part) for part in text.split(",")]
    except (ValueError, ArithmeticError):
        budgets = []
    if not budgets or not all(0 < budget < math.inf for budget in budgets):
        raise UserError(
            f"budgets {text!r}: expected positive numbers, as FIRST:LAST:SPACING or as a list"
        )
    return budgets


def check_steps(schedule: Schedule, steps: int) -> None:
    """Refuse checks at or beyond the last of ``steps`` steps, where nothing is left to save.

    Raises:
        UserError: naming the check.
    """
    late: Sequence[Check] = [check for check in schedule.checks if check.step >= steps - 1]
    if late:
        raise UserError(
            f"schedule {schedule}: step {late[0].step} is too late, the last useful step of "
            f"{steps} is {steps - 2}"
        )
