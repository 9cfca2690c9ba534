"""Zero-order search over the noise of every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from ttsnap.prompts import seed_of
from ttsnap.searching.ledger import best
from ttsnap.searching.methods.base import Method, MethodOptions

if TYPE_CHECKING:
    from ttsnap.searching.executor import Cohort, Executor
    from ttsnap.searching.noise import Move, Recipe


class NoiseZeroOrder(MethodOptions):
    """Hill climbing over the noise of every step (arXiv 2506.03164)."""

    noises: PositiveInt = Field(4, description="Noises tried around the pivot at once.")
    iterations: PositiveInt = Field(
        20, description="Times that the pivot may move at a step; a small budget affords fewer."
    )
    distance: PositiveFloat = Field(
        0.15, description="Largest distance from the pivot, as a share of the norm of noise."
    )

    def move(self) -> Move:
        """To another noise, within a ball around it."""
        from ttsnap.searching.noise import ball

        return ball(self.distance)


def noise_zero_order(run: Executor, options: NoiseZeroOrder) -> None:
    """Choose the noise of every step by hill climbing (arXiv 2506.03164).

    This is epsilon-greedy search without fresh noises. What the noises tried lead to is judged by
    the estimates of the next step.
    """
    search_noises(run, options, epsilon=0.0)


def search_noises(run: Executor, options: NoiseZeroOrder, epsilon: float) -> None:
    """Choose the noise of every step by hill climbing that may also explore (arXiv 2506.03164).

    At each step whose noise has an effect, a pivot noise is compared with others near by, or, with
    probability epsilon, fresh, by the estimates one step ahead; the best is the next pivot. A
    trajectory has as many of these iterations per step as the budget affords, up to those asked
    for; then as many noises; the smallest is a plain trajectory. Further trajectories follow until
    the budget is spent.
    """
    run.meter.affordable()
    while size := next((s for s in _sizes(options) if run.meter.affords(cost(run, *s))), None):
        noises, iterations = size
        price = cost(run, *size)
        together = max(1, run.task.batch_size // max(1, noises))
        count = max(1, min(together, run.meter.count(price)))
        run.planned += count * price
        run.alive = count
        cohort = run.start(count)
        for step in run.noisy if iterations else []:
            cohort = _choose(run, run.advance(cohort, step), noises, iterations, epsilon)
        if not iterations or run.noisy[-1] + 1 < run.last:
            run.reach(cohort, run.last)
        run.ledger.end_round()


def _sizes(options: NoiseZeroOrder) -> Iterator[tuple[int, int]]:
    """Noises and iterations per step, from most to least."""
    yield from ((options.noises, k) for k in range(options.iterations, 0, -1))
    yield from ((n, 1) for n in range(options.noises - 1, 0, -1))
    yield 0, 0


def cost(run: Executor, noises: int, iterations: int) -> float:
    """Cost of one trajectory; without iterations only its final image is looked at."""
    if not iterations:
        return run.meter.costs.cost(1)
    more = sum(run.meter.costs.denoise + run.price_of_look(step + 1) for step in run.noisy)
    return _rest(run, 0) + noises * iterations * more


def _rest(run: Executor, first: int) -> float:
    """Cost of one row from the evaluation of step ``first`` on, looked at after every noise."""
    ahead = [step + 1 for step in run.noisy if step + 1 >= first]
    looks = sorted({*ahead, run.last})
    return (run.last + 1 - first) * run.meter.costs.denoise + sum(map(run.price_of_look, looks))


def _choose(run: Executor, cohort: Cohort, noises: int, iterations: int, epsilon: float) -> Cohort:
    """Take an evaluated cohort over its step by the best noise found, and evaluate it there."""
    from ttsnap.searching.executor import Look

    step, count = cohort.state.index, len(cohort)
    run.message = f"noise of step {step + 1}"
    rows = [row for row in range(count) for _ in range(noises)]
    top = run.evaluate(run.step(cohort, cohort.own_noises))
    seen = run.look(top)
    # What trying once more costs, and with it the rest of the way without any more of that.
    once = run.meter.costs.denoise + run.price_of_look(step + 1)
    least = count * (noises * once + (_rest(run, step + 2) if step + 1 < run.last else 0.0))
    for iteration in range(iterations):
        if not run.meter.affords(least):
            break
        recipes: list[Recipe] = []
        for position, row in enumerate(rows):
            number = iteration * noises + position % noises
            root = run.ledger.candidates[cohort.who[row]].seed
            seed = seed_of(root, f"move {step}", number)
            fresh = seed_of(root, f"fresh {step}", number) / 2**63 < epsilon
            recipes.append((seed,) if fresh else (*top.noises[row][step + 1], seed))
        tried = run.evaluate(run.step(run.select(cohort, rows), recipes))
        look = run.look(tried)
        values = np.concatenate([seen.values, look.values], axis=1)
        images = np.concatenate([seen.images, look.images])
        chosen = []
        for row in range(count):
            rivals = [row, *range(count + row * noises, count + (row + 1) * noises)]
            chosen.append(rivals[int(best(values[:, rivals], 1)[0])])
        top = run.select(run.concat([top, tried]), chosen)
        seen = Look(step + 1, values[:, chosen], images[chosen])
    run.record(top, seen)
    return top


METHOD = Method(
    "noise-zero-order",
    "at every step climb from noise to better noise near by",
    noise_zero_order,
    NoiseZeroOrder,
    needs_noise=True,
)
