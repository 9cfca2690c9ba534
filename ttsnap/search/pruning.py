"""TTSnap (arXiv 2511.22242, section 3): prune by early estimates of the reward, finish the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ttsnap.errors import UserError
from ttsnap.schedule import Schedule, check_steps, keep_best
from ttsnap.search.result import Candidate, SearchResult, thumbnail
from ttsnap.search.task import Progress, Task

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Sampler, State
    from ttsnap.rewards.base import Reward


def ttsnap_search(task: Task, schedule: Schedule, verifiers: Mapping[int, Reward]) -> SearchResult:
    """Start as many candidates as the budget affords and prune them at the checks of ``schedule``.

    Args:
        task: the prompt, the models and the budget.
        schedule: the checks.
        verifiers: check step -> NARF checkpoint of that step. A step without one is checked by the
            task's own reward; with none at all this is TTSp.

    Raises:
        UserError: the budget does not afford one candidate, a check lies beyond the sampler's
            steps, or the sampler is stochastic.
    """
    return prune(task, schedule, verifiers, "ttsnap" if verifiers else "ttsp")


def prune(
    task: Task, schedule: Schedule, verifiers: Mapping[int, Reward], method: str
) -> SearchResult:
    """Run ``schedule``; all candidates alive reach a check before any is pruned."""
    sampler = task.sampler
    check_steps(schedule, sampler.steps)
    if sampler.stochastic:
        raise UserError(
            f"method {method}: needs a deterministic scheduler, whose images follow from their "
            "seeds; choose another sampling.scheduler, or eta 0"
        )
    meter = task.meter()
    n = meter.affordable(schedule)
    began = time.perf_counter()
    seeds = [task.seed_of(i) for i in range(n)]
    states = [
        sampler.start(task.conditioning, seeds[i : i + task.batch_size], rows=[0] * size)
        for i, size in _batches(n, task.batch_size)
    ]
    candidates = [Candidate(seed) for seed in seeds]
    alive = np.arange(n)
    best: float | None = None
    looks = [
        (check.step, verifiers.get(check.step, task.reward), count)
        for check, count in zip(schedule.checks, schedule.counts(n)[1:], strict=True)
    ]
    for step, reward, count in [*looks, (sampler.steps - 1, task.reward, 1)]:
        scores = np.empty(len(alive), dtype=np.float32)
        done = 0
        for batch, state in enumerate(states):
            size = len(state)
            while state.index <= step:
                meter.charge(evaluations=size)
                state, x0 = sampler.step(state)
                task.observe(
                    Progress(state.index - 1, len(alive), n, best, meter.spent, task.budget)
                )
            states[batch] = state
            meter.charge(decodes=size, scores=size)
            images = sampler.decode(x0)
            scores[done : done + size] = reward.score(images, [task.prompt] * size)
            leader = keep_best(scores[: done + size], 1)[0]
            if leader >= done:
                image = images[leader - done]
            for i, picture in zip(alive[done : done + size], images, strict=True):
                candidates[i].thumbnails[step] = thumbnail(picture)
            done += size
        for i, score in zip(alive, scores, strict=True):
            candidates[i].scores[step] = float(score)
        best = float(scores.max())
        kept = keep_best(scores, count)
        if step < sampler.steps - 1:
            for i in np.delete(alive, kept):
                candidates[i].pruned_at = step
            states = _regroup(sampler, states, kept, task.batch_size)
        alive = alive[kept]
        task.observe(Progress(step, len(alive), n, best, meter.spent, task.budget))
    return SearchResult(
        method=method,
        prompt=task.prompt,
        model=task.model,
        reward=task.reward.name,
        schedule=str(schedule),
        budget=task.budget,
        planned=meter.costs.cost(n, schedule),
        spent=meter.spent,
        unit=meter.costs.unit,
        nfe=meter.evaluations,
        seconds=time.perf_counter() - began,
        winner=int(alive[0]),
        image=image,
        candidates=candidates,
    )


def _batches(n: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Start and size of each batch of ``n`` candidates."""
    return ((i, min(batch_size, n - i)) for i in range(0, n, batch_size))


def _regroup(
    sampler: Sampler, states: list[State], kept: np.ndarray, batch_size: int
) -> list[State]:
    """The candidates at positions ``kept`` of ``states``, in as few full batches as possible."""
    together = sampler.concat(states)
    return [
        sampler.select(together, kept[i : i + size].tolist())
        for i, size in _batches(len(kept), batch_size)
    ]
