"""Beam search over the noise of the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.searching.ledger import best
from ttsnap.searching.methods.base import Method, MethodOptions, Steps

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Beam(MethodOptions):
    """Beam search over the noise of the steps (arXiv 2506.03164)."""

    beams: PositiveInt = Field(2, description="Branches kept at every look.")
    noises: PositiveInt = Field(4, description="Noises tried for each branch.")
    steps: Steps | None = Field(
        None,
        description="Step indices of the looks, after the first; null looks after each noise.",
    )


Choice = Callable[[np.ndarray, int, float], np.ndarray]
"""Of scores (R, n), a number and a draw uniform in [0, 1): as many indices, ascending."""


class Fork(NamedTuple):
    """Where beams branch, by the noise of a step, and where the branches are looked at."""

    step: int
    look: int


def top(values: np.ndarray, count: int, draw: float) -> np.ndarray:
    """The best; nothing is left to the draw."""
    return best(values, count)


def beam(run: Executor, options: Beam) -> None:
    """Run beam searches until the budget is spent (arXiv 2506.03164, section 4).

    Before each look every beam branches by the last noise before it; the branches' estimates are
    scored, and the best of a search go on. Where the budget does not pay for another search of
    full size, the largest that it does pay for follows; the smallest is one plain trajectory.
    """
    search(run, _forks(run, options), options.beams, options.noises)


def search(run: Executor, forks: list[Fork], beams: int, noises: int, choose: Choice = top) -> None:
    """Run searches of at most so many beams and noises until the budget is spent.

    Args:
        run: the search.
        forks: where beams branch.
        beams: kept at every look.
        noises: branches of each.
        choose: which branches go on; the best by default.
    """
    run.meter.affordable()
    run.message = "beams"
    sizes = [(b, n) for b in range(1, beams + 1) for n in range(1, noises + 1)]
    while True:
        costs = {size: cost(run, *size, forks) for size in sizes}
        affordable = [size for size in sizes if run.meter.affords(costs[size])]
        if not affordable:
            break
        size = max(affordable, key=lambda size: costs[size])
        together = max(1, run.task.batch_size // (size[0] * size[1]))
        count = max(1, min(together, run.meter.count(costs[size])))
        run.planned += count * costs[size]
        _search(run, count, *size, forks, choose)
        run.ledger.end_round()


def _forks(run: Executor, options: Beam) -> list[Fork]:
    """The looks, each with the last step before it whose noise has an effect.

    Raises:
        UserError: there is none after the look before.
    """
    if options.steps is None:
        return [Fork(step, step + 1) for step in run.noisy]
    forks: list[Fork] = []
    before = 0
    for look in run.check_looks(options.steps, first=1):
        between = [step for step in run.noisy if before <= step < look]
        if not between:
            raise UserError(
                f"method beam: steps: no noise makes candidates differ from step {before} to "
                f"{look}; it does at steps {', '.join(map(str, run.noisy))}"
            )
        forks.append(Fork(between[-1], look))
        before = look
    return forks + [Fork(step, run.last) for step in run.noisy[-1:] if step >= before]


def cost(run: Executor, beams: int, noises: int, forks: list[Fork], begin: int = 0) -> float:
    """Cost of one search from the evaluation of step ``begin`` on."""
    costs = run.meter.costs
    ahead = [fork for fork in forks if fork.look >= begin] if noises > 1 else []
    evaluations = run.last + 1 - begin
    evaluations += (noises - 1) * sum(fork.look - fork.step for fork in ahead)
    seen = noises * sum(run.price_of_look(fork.look) for fork in ahead)
    if not ahead or ahead[-1].look < run.last:
        seen += costs.verify
    return beams * (evaluations * costs.denoise + seen)


def _search(
    run: Executor, count: int, beams: int, noises: int, forks: list[Fork], choose: Choice
) -> None:
    """``count`` searches at once."""
    run.alive = count * beams
    cohort = run.start(count * beams)
    for fork in forks:
        begin = cohort.state.index + cohort.evaluated
        while noises > 1 and not run.meter.affords(count * cost(run, beams, noises, forks, begin)):
            noises -= 1
        if noises == 1:
            break
        cohort = run.advance(cohort, fork.step)
        branches = run.branch(cohort, np.repeat(np.arange(len(cohort)), noises))
        run.alive = len(branches)
        cohort, values = run.reach(run.step(branches), fork.look)
        if fork.look == run.last:
            return
        parts = np.split(np.arange(len(cohort)), count)
        roots = [run.ledger.candidates[cohort.who[part[0]]].seed for part in parts]
        draws = [seed_of(root, "choice", fork.look) / 2**63 for root in roots]
        kept = np.concatenate(
            [part[choose(values[:, part], beams, u)] for part, u in zip(parts, draws, strict=True)]
        )
        run.drop(cohort, kept)
        cohort = run.select(cohort, kept)
    run.alive = len(cohort)
    run.reach(cohort, run.last)


METHOD = Method(
    "beam",
    "keep the best of many branches by the noise of every step, by their next estimates",
    beam,
    Beam,
    needs_noise=True,
)
