"""Schedules that come with the package: templates for a model family and a reward, and a default.

A template was planned on rewards that others released, of one model at one size. It is no plan of a
run: of its checks it keeps the noise levels and the shares, and how many candidates a budget starts
follows from the prices of whoever runs it. ``python -m ttsnap.simulation.make_plans`` makes the
files. Reading them takes neither torch nor pandas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsnap.schedule import Check, CostModel, Schedule

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings

ANY = "any"
"""Family and reward of what is measured with the default schedule."""

DEFAULT = ((0.40, 0.75), (0.55, 0.67))
"""Shares of the steps after which the default schedule checks, and of the candidates it keeps.

Of 785 schedules of one or two checks it is worth most by the reward that gains least: of
the three released for Flux and that of the embedded world (``benchmarks/default_schedule.py``).
"""

FEWEST_STEPS = 4
"""With fewer there is hardly a step at which a check saves anything."""


@dataclass(frozen=True)
class Template:
    """One of the files.

    Attributes:
        name: of the file.
        family: of the model that it was planned for, as ``model.family`` has it; ``any`` of the
            default.
        reward: as :func:`reward_name` has it, or ``any``.
        measured_on: the model and how it was sampled, for people.
        steps: of that model's sampler.
        plans: by ``runs``, the budget in full runs, ascending: ``n``, what is started at the prices
            of the plan; ``checks``, each with ``step``, ``noise`` (see :func:`noise_shares`) and
            ``keep``; and ``gain``, the mean reward above best-of-N's with its 95 % interval, on
            prompts that the plan was not chosen on.
        held_out: the same over all budgets, by reward: ``omega``, ``equivalent_n_ratio`` and
            ``compute_for_same_reward`` (see :func:`ttsnap.simulation.omega.gains`).
        provenance: what it was made of, and how.
    """

    name: str
    family: str
    reward: str
    measured_on: str
    steps: int
    plans: list[dict[str, Any]]
    held_out: dict[str, dict[str, list[float]]]
    provenance: dict[str, Any]

    @property
    def compute(self) -> list[float]:
        """Share of best-of-N's compute that the same reward takes, with its interval.

        Of several rewards the one that gains least.
        """
        return max(one["compute_for_same_reward"] for one in self.held_out.values())


@dataclass(frozen=True)
class Shipped:
    """What to run where there is no plan of one's own.

    Attributes:
        schedule: for the steps that were asked for.
        origin: name of the template.
        text: in one line what it is and what it was measured on.
    """

    schedule: Schedule
    origin: str
    text: str

    @property
    def notice(self) -> str:
        """What a search says of it."""
        checks = f"{self.schedule}: " if self.schedule.checks else ""
        return f"schedule {checks}{self.text}"


@cache
def templates() -> dict[str, Template]:
    """All of them by their names, the default among them."""
    found = sorted(files(__name__).iterdir(), key=lambda one: one.name)
    read = [json.loads(one.read_bytes()) for one in found if one.name.endswith(".json")]
    return {one["name"]: Template(**one) for one in read}


def reward_name(reward: RewardSettings) -> str | None:
    """What templates call a reward: image-reward, pickscore or hpsv2; None of any other.

    A CLIP is PickScore if its path says so, as the hub id yuvalkirstain/PickScore_v1 does.
    """
    if reward.kind in ("image-reward", "hpsv2"):
        return reward.kind
    says_so = reward.kind == "clip" and "pickscore" in (reward.path or "").lower()
    return "pickscore" if says_so else None


def shipped_schedule(
    family: str, reward: str | None, sigmas: Sequence[float], costs: CostModel, budget: float
) -> Shipped:
    """The template's schedule for a family and a reward, or the default where there is none.

    With too few steps, and where it would start no more candidates than best-of-N, it has no
    checks, which is best-of-N.

    Args:
        family: of the model.
        reward: of :func:`reward_name`; None of any other, and of several together.
        sigmas: (S,) noise levels that enter the steps, falling, as ``Sampler.sigmas``.
        costs: of the sampler; N is ``costs.largest_n(budget, schedule)``.
        budget: per prompt, in their unit.
    """
    named = [one for one in templates().values() if (one.family, one.reward) == (family, reward)]
    template = named[0] if named else templates()["default"]
    if len(sigmas) < FEWEST_STEPS:
        words = f"no checks, best-of-N: too few steps to prune, {len(sigmas)}"
        return Shipped(Schedule(), template.name, words)
    if named:
        runs = budget / costs.cost(1)
        nearest = min(template.plans, key=lambda plan: abs(math.log(plan["runs"] / runs)))
        schedule = at_noise_levels(nearest["checks"], sigmas)
        words = f"template {template.name}, planned on {template.measured_on}"
    else:
        schedule = default_schedule(len(sigmas))
        words = f"default schedule, planned for no model; on {template.measured_on}"
    if costs.largest_n(budget, schedule) <= costs.largest_n(budget):
        words = "no checks, best-of-N: the budget is too small to start more candidates"
        return Shipped(Schedule(), template.name, words)
    share, low, high = (100 * value for value in template.compute)
    words += f", best-of-N's reward took {share:.0f} % [{low:.0f}, {high:.0f}] of the compute"
    return Shipped(schedule, template.name, f"{words}, on prompts not planned on")


def default_schedule(steps: int) -> Schedule:
    """``DEFAULT`` for so many steps."""
    return _merged((max(0, round(share * steps) - 1), keep) for share, keep in DEFAULT)


def at_noise_levels(checks: Iterable[Mapping[str, Any]], sigmas: Sequence[float]) -> Schedule:
    """Checks of a template at the steps whose noise is nearest.

    Args:
        checks: with ``noise`` and ``keep``.
        sigmas: (S,), see :func:`noise_shares`; the last of them is left out, for nothing is saved
            there.
    """
    levels = noise_shares(sigmas)[:-1]
    steps = [int(np.abs(levels - check["noise"]).argmin()) for check in checks]
    return _merged(zip(steps, (check["keep"] for check in checks), strict=True))


def noise_shares(sigmas: Sequence[float]) -> np.ndarray:
    """(S,) shares of noise in the latents, noise / (signal + noise), in [0, 1].

    Args:
        sigmas: (S,) falling; of flow matching, which begin at 1 at most, they are these shares; of
            others, which begin far above, they are noise / signal.
    """
    levels = np.asarray(sigmas, np.float64)
    return levels if levels[0] <= 1 else levels / (1 + levels)


def _merged(checks: Iterable[tuple[int, float]]) -> Schedule:
    """Checks as a schedule; those that meet at a step keep the product of their shares."""
    kept: dict[int, float] = {}
    for step, keep in checks:
        kept[step] = kept.get(step, 1.0) * keep
    return Schedule(tuple(Check(step, round(keep, 4)) for step, keep in sorted(kept.items())))
