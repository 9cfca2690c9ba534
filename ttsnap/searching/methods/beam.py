"""Beam search over the noise of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.schedule import keep_best
from ttsnap.searching.engine import Run, check_looks, merit

if TYPE_CHECKING:
    from ttsnap.searching.methods import Beam


def beam(run: Run, options: Beam) -> None:
    """Run beam searches until the budget is spent (arXiv 2506.03164, section 4).

    Before each look every beam branches by the noise of one step; the branches' next estimates
    are scored, and the best of a search go on. Where the budget does not pay for another search
    of full size, the largest that it does pay for follows; the smallest is one plain trajectory.
    """
    run.meter.affordable()
    run.message = "beams"
    looks = [*check_looks(options.steps or range(1, run.last), run, first=1), run.last]
    sizes = [(b, n) for b in range(1, options.beams + 1) for n in range(1, options.noises + 1)]
    while True:
        costs = {size: cost(run, *size, looks) for size in sizes}
        affordable = [size for size in sizes if run.meter.affords(costs[size])]
        if not affordable:
            break
        beams, noises = size = max(affordable, key=lambda size: costs[size])
        together = max(1, run.task.batch_size // (beams * noises))
        count = max(1, min(together, int(run.meter.left / costs[size] * (1 + 1e-9))))
        run.planned += count * costs[size]
        _search(run, count, beams, noises, looks)
        run.end_round()


def cost(run: Run, beams: int, noises: int, looks: Sequence[int], begin: int = 0) -> float:
    """Cost of one search from the evaluation of step ``begin`` on."""
    costs = run.meter.costs
    ahead = [look for look in looks if look >= begin] if noises > 1 else [run.last]
    evaluations = run.last + 1 - begin + (noises - 1) * len(ahead)
    seen = noises * sum(map(run.price_of_look, ahead))
    return beams * (evaluations * costs.denoise + seen)


def _search(run: Run, count: int, beams: int, noises: int, looks: Sequence[int]) -> None:
    """``count`` searches at once."""
    run.alive = count * beams
    group = run.start(count * beams)
    for look in looks if noises > 1 else [run.last]:
        begin = group.state.index + group.evaluated
        while noises > 1 and not run.meter.affords(count * cost(run, beams, noises, looks, begin)):
            noises -= 1
        group = run.advance(group, look - 1)
        branches = run.branch(group, np.repeat(np.arange(len(group)), noises))
        run.alive = len(branches)
        group, values = run.reach(run.step(branches), look)
        if look < run.last:
            parts = np.split(np.arange(len(group)), count)
            kept = [part[keep_best(merit(values[:, part]), beams)] for part in parts]
            run.drop(group, np.concatenate(kept))
            group = run.select(group, np.concatenate(kept))
