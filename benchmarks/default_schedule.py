"""Which schedule of one or two checks suits rewards that nobody planned for?

    python benchmarks/default_schedule.py SOURCE [SOURCE …]

Sources are reward tensors as `ttsnap simulate` takes them: released ones, of which the even prompts
are taken, those that templates are planned on, and a run's val store. Prints one JSON object: the
best rules by the reward that gains least by them, each with what it is worth by every reward. That
is M/N: with the compute of N full runs it is as good as best-of-M; the geometric mean over budgets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from ttsnap.plans import DEFAULT
from ttsnap.schedule import Check, CostModel, Schedule
from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.make_plans import EVEN, MODELS
from ttsnap.simulation.montecarlo import Pool
from ttsnap.simulation.planner import planning_subsets
from ttsnap.simulation.source import RewardPair, load_source, measured_costs

Rule = tuple[tuple[float, float], ...]
RUNS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
SHOWN = 10


def rules() -> Iterator[Rule]:
    """Shares of the steps after which to check, and of the candidates to keep."""
    for one in product((0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6), (0.3, 0.4, 0.5, 0.67, 0.75)):
        yield (one,)
    firsts = product((0.25, 0.3, 0.35, 0.4, 0.45, 0.5), (0.5, 0.6, 0.67, 0.75, 0.8))
    seconds = product((0.45, 0.5, 0.55, 0.6, 0.65, 0.7), (0.4, 0.5, 0.6, 0.67, 0.75))
    for first, second in product(firsts, seconds):
        if second[0] > first[0] + 0.05:
            yield first, second


class Judge:
    """What rules are worth by one reward."""

    def __init__(self, rewards: RewardPair, costs: CostModel) -> None:
        final = rewards.final
        self.pool = Pool(rewards.base, final, planning_subsets(*final.shape, 0))
        self.sizes = np.arange(1, final.shape[1] + 1)
        self.ladder = [expected_best(final, int(size)).mean() for size in self.sizes]
        self.costs = costs

    def worth(self, rule: Rule) -> float:
        schedule = Schedule(
            tuple(Check(max(0, round(part * self.costs.steps) - 1), keep) for part, keep in rule)
        )
        logs = []
        for runs in RUNS:
            n = self.costs.largest_n(runs * self.costs.cost(1), schedule)
            if n <= runs:
                logs.append(0.0)  # best-of-N then
            elif n <= self.sizes[-1]:
                steps = [check.step for check in schedule.checks]
                found = self.pool.search(steps, schedule.counts(n)).mean.mean()
                logs.append(np.log(np.interp(found, self.ladder, self.sizes) / runs))
        return float(np.exp(np.mean(logs)))


def judges(sources: Sequence[Path]) -> dict[str, Judge]:
    found = {}
    for source in sources:
        measured = measured_costs(source)
        for name, rewards in load_source(source).items():
            if name in measured:
                found[name] = Judge(rewards, measured[name])
            else:
                flux = MODELS["flux"]
                costs = CostModel(flux.denoise, 0.0, flux.verify, rewards.base.shape[2])
                found[name] = Judge(rewards.of(EVEN), costs)
    return found


def main() -> None:
    by = judges([Path(argument) for argument in sys.argv[1:]])
    worth = {rule: {name: judge.worth(rule) for name, judge in by.items()} for rule in rules()}
    ranked = sorted(worth, key=lambda rule: -min(worth[rule].values()))
    shown = {rule: worth[rule] for rule in (*ranked[:SHOWN], DEFAULT)}
    rows = [
        {"rule": rule, "worth": {name: round(value, 3) for name, value in one.items()}}
        for rule, one in shown.items()
    ]
    print(json.dumps({"runs": RUNS, "tried": len(worth), "rules": rows}))


if __name__ == "__main__":
    main()
