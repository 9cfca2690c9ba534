"""Zero-order and epsilon-greedy search over the noise of every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.prompts import seed_of
from ttsnap.schedule import keep_best
from ttsnap.searching.engine import Group, Look, Run, merit
from ttsnap.searching.noise import step_seed

if TYPE_CHECKING:
    from ttsnap.searching.methods import EpsGreedy, NoiseZeroOrder


def noise_zero_order(run: Run, options: NoiseZeroOrder) -> None:
    """Epsilon-greedy search without fresh noises."""
    _search(run, options, epsilon=0.0)


def eps_greedy(run: Run, options: EpsGreedy) -> None:
    """Choose the noise of every step by hill climbing that also explores (arXiv 2506.03164).

    At each step a pivot noise is compared with others near by, or, with probability epsilon, fresh,
    by the estimates one step ahead; the best is the next pivot. A trajectory has as many of these
    iterations per step as the budget affords, up to those asked for; then as many noises; the
    smallest is a plain trajectory. Further trajectories follow until the budget is spent.
    """
    _search(run, options, options.epsilon)


def _search(run: Run, options: NoiseZeroOrder, epsilon: float) -> None:
    run.meter.affordable()
    while size := next((s for s in _sizes(options) if run.meter.affords(cost(run, *s))), None):
        noises, iterations = size
        price = cost(run, *size)
        together = max(1, run.task.batch_size // max(1, noises))
        count = max(1, min(together, int(run.meter.left / price * (1 + 1e-9))))
        run.planned += count * price
        run.alive = count
        group = run.start(count)
        if iterations:
            group = run.evaluate(group)
            for _ in range(run.last):
                group = _choose(run, group, noises, iterations, epsilon)
        else:
            run.reach(group, run.last)
        run.end_round()


def _sizes(options: NoiseZeroOrder) -> Iterator[tuple[int, int]]:
    """Noises and iterations per step, from most to least."""
    yield from ((options.noises, k) for k in range(options.iterations, 0, -1))
    yield from ((n, 1) for n in range(options.noises - 1, 0, -1))
    yield 0, 0


def cost(run: Run, noises: int, iterations: int) -> float:
    """Cost of one trajectory; without iterations only its final image is looked at."""
    costs = run.meter.costs
    if not iterations:
        return costs.cost(1)
    return costs.denoise + (1 + noises * iterations) * _tries(run, 1)


def _tries(run: Run, first: int) -> float:
    """Cost of trying one noise at each step from ``first`` to the last."""
    steps = range(first, run.last + 1)
    return len(steps) * run.meter.costs.denoise + sum(map(run.price_of_look, steps))


def _choose(run: Run, group: Group, noises: int, iterations: int, epsilon: float) -> Group:
    """Take an evaluated group over its step by the best noise found, and evaluate it there."""
    step, count = group.state.index, len(group)
    run.message = f"noise of step {step + 1}"
    rows = [row for row in range(count) for _ in range(noises)]
    best = run.evaluate(
        run.step(group, [(step_seed(run.candidates[i].seed, step),) for i in group.who])
    )
    seen = run.look(best)
    # What trying once more costs, and with it the rest of the way without any more of that.
    once = run.meter.costs.denoise + run.price_of_look(step + 1)
    least = count * (noises * once + _tries(run, step + 2))
    for iteration in range(iterations):
        if not run.meter.affords(least):
            break
        recipes = []
        for position, row in enumerate(rows):
            number = iteration * noises + position % noises
            root = run.candidates[group.who[row]].seed
            seed = seed_of(root, f"move {step}", number)
            fresh = seed_of(root, f"fresh {step}", number) / 2**63 < epsilon
            recipes.append((seed,) if fresh else (*best.noises[row][step + 1], seed))
        tried = run.evaluate(run.step(run.select(group, rows), recipes))
        look = run.look(tried)
        values = np.concatenate([seen.values, look.values], axis=1)
        images = np.concatenate([seen.images, look.images])
        chosen = []
        for row in range(count):
            rivals = [row, *range(count + row * noises, count + (row + 1) * noises)]
            chosen.append(rivals[int(keep_best(merit(values[:, rivals]), 1)[0])])
        best = run.select(run.concat([best, tried]), chosen)
        seen = Look(step + 1, values[:, chosen], images[chosen])
    run.record(best, seen)
    return best
