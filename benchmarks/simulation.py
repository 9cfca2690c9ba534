"""How fast are simulation and planning?

    python benchmarks/simulation.py [TENSORS.npz]

Prints one JSON object: draws x prompts x candidates per second of a schedule of three checks with
N = 64, of the library and of plain NumPy that works on one draw at a time, both in this process;
and the seconds that it takes to plan TTSnap for 19 budgets (planning TTSp takes as long). All of it
runs on one core, and rates are by the time that this core worked, which other programs do not
disturb. Without a file it runs on made-up rewards of 200 prompts x 200 images x 20 steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from ttsnap.schedule import CostModel, Schedule
from ttsnap.simulation.montecarlo import Pool, Subsets
from ttsnap.simulation.planner import Planner, planning_subsets
from ttsnap.simulation.source import load_source

N = 64
SCHEDULE = Schedule.parse("2:0.4,6:0.4,11:0.5")
COSTS = CostModel(denoise=9.9, decode=0.0, reward=1.2, steps=20)
BUDGETS = [float(budget) for budget in range(400, 4001, 200)]


def made_up() -> np.ndarray:
    """Rewards whose early steps are the final ones plus noise that fades out."""
    rng = np.random.default_rng(0)
    final = rng.normal(size=(200, 200, 1))
    noise = rng.normal(size=(200, 200, 20)) * np.linspace(2, 0, 20)
    return (final + noise).astype(np.float32)


def one_draw_at_a_time(scores: np.ndarray, final: np.ndarray, draws: int) -> float:
    """Mean final reward, by as plain a program as can be."""
    rng = np.random.default_rng(0)
    total = 0.0
    for prompt in range(len(final)):
        for _ in range(draws):
            alive = rng.choice(final.shape[1], N, replace=False)
            for check in SCHEDULE.checks:
                order = np.argsort(-scores[prompt, alive, check.step])
                alive = alive[order[: check.survivors(len(alive))]]
            total += float(final[prompt, alive].max())
    return total / (len(final) * draws)


def library(scores: np.ndarray, final: np.ndarray, draws: int) -> float:
    """The same by the library, with its subsets yet to be drawn."""
    return searched(Pool(scores, final, Subsets(*final.shape, draws, 0)))


def searched(pool: Pool) -> float:
    """The same with subsets that are there: all that a further schedule takes."""
    steps = [check.step for check in SCHEDULE.checks]
    return float(pool.search(steps, SCHEDULE.counts(N)).mean.mean())


def timed(function, *arguments):
    """What the function gives, and the seconds that this process worked on it."""
    began = time.process_time()
    value = function(*arguments)
    return value, time.process_time() - began


def main() -> None:
    if len(sys.argv) > 1:
        scores = next(iter(load_source(Path(sys.argv[1])).values())).finetuned
    else:
        scores = made_up()
    final = scores[:, :, -1]
    work = N * len(final)
    plain_draws, draws = 20, 1024
    plain, plain_seconds = timed(one_draw_at_a_time, scores, final, plain_draws)
    once, once_seconds = timed(library, scores, final, draws)
    pool = Pool(scores, final, Subsets(*final.shape, draws, 0))
    searched(pool)
    again, again_seconds = min((timed(searched, pool) for _ in range(5)), key=lambda t: t[1])
    planner = Planner(Pool(scores, final, planning_subsets(*final.shape, 0)), COSTS, range(15))
    began = time.perf_counter()
    plans, plan_seconds = timed(lambda: list(planner.plans(BUDGETS)))
    waited = time.perf_counter() - began
    rates = {
        "plain": work * plain_draws / plain_seconds,
        "with_new_subsets": work * draws / once_seconds,
        "with_the_same_subsets": work * draws / again_seconds,
    }
    print(
        json.dumps(
            {
                "shape": list(scores.shape),
                "mean_reward": {"plain": plain, "new": once, "same": again},
                "candidates_per_second": {name: round(rate) for name, rate in rates.items()},
                "times_plain": {
                    name: round(rate / rates["plain"], 1) for name, rate in rates.items()
                },
                "planning": {
                    "budgets": len(plans),
                    "seconds": round(plan_seconds, 1),
                    "wall_clock_seconds": round(waited, 1),
                    "schedules_tried": planner.tried,
                },
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
