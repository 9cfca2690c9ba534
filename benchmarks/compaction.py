"""Does pruning save the time that it saves arithmetic?

    python benchmarks/compaction.py [N] [REPEATS]

Runs best-of-N and pruning live at the same N on the default model, reward and sizes, one after the
other, again and again, and prints one JSON object: TFLOPs and median seconds of both, the ratios of
pruning to best-of-N, and how far the ratio of times is above that of TFLOPs. A pruned candidate
must cost nothing any more, so the two ratios should be nearly the same. Beside the wall clock there
is the time that the processor worked, which other programs disturb less. Pruning is done by the
reward itself, which costs what its NARF checkpoints cost.
"""

from __future__ import annotations

import json
import os
import sys
import time
from statistics import median

import torch

from ttsnap.config import Config, Runtime
from ttsnap.diffusion import load_sampler
from ttsnap.progress import quiet_libraries
from ttsnap.prompts import load_split
from ttsnap.rewards import load_reward
from ttsnap.schedule import Schedule
from ttsnap.searching import SearchResult
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.searcher import Searcher

SCHEDULE = Schedule.parse("2:0.4,5:0.4")
NAMES = ("best-of-n", "ttsp")


def main(n: int, repeats: int) -> None:
    quiet_libraries()
    config = Config()
    sampler = load_sampler(config.model, config.sampling, Runtime())
    name = config.search.reward
    reward = load_reward(config.rewards[name], name=name)
    batch = config.runtime.batch_size
    searcher = Searcher(sampler, [reward], costs=config.costs, batch_size=batch)
    costs = searcher.prices("TFLOPs")
    prompt = load_split(config.splits.test)[0]

    def search(method: str, root: int) -> SearchResult:
        schedule = SCHEDULE if method == "ttsp" else Schedule()
        options = Pruning(schedule=str(schedule)) if schedule.checks else None
        budget = Budget(costs.cost(n, schedule), costs.unit)
        result = searcher.run(prompt, method, options, budget=budget, seed=root)
        if len(result.candidates) != n:
            raise RuntimeError(f"{method} ran {len(result.candidates)} candidates, not {n}")
        return result

    for method in NAMES:
        search(method, 0)  # warms up
    wall: dict[str, list[float]] = {method: [] for method in NAMES}
    worked: dict[str, list[float]] = {method: [] for method in NAMES}
    spent = {}
    for root in range(1, repeats + 1):
        for method in NAMES:
            began = time.process_time()
            result = search(method, root)
            worked[method].append(time.process_time() - began)
            wall[method].append(result.seconds)
            spent[method] = result.spent

    def ratio(values: dict[str, float]) -> float:
        return values["ttsp"] / values["best-of-n"]

    clock = {method: median(values) for method, values in wall.items()}
    processor = {method: median(values) for method, values in worked.items()}
    print(
        json.dumps(
            {
                "n": n,
                "schedule": str(SCHEDULE),
                "alive": SCHEDULE.counts(n),
                "batch_size": batch,
                "repeats": repeats,
                "threads": torch.get_num_threads(),
                "load_average": os.getloadavg(),
                "tflops": spent,
                "seconds": clock,
                "processor_seconds": processor,
                "ratio_of_tflops": ratio(spent),
                "ratio_of_seconds": ratio(clock),
                "ratio_of_processor_seconds": ratio(processor),
                "excess": ratio(clock) / ratio(spent) - 1,
                "excess_by_processor": ratio(processor) / ratio(spent) - 1,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:]]
    main(*(numbers + [64, 7][len(numbers) :]))
