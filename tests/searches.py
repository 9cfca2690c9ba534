"""Searches on tiny models, by every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttsnap.config import Model, Sampling
from ttsnap.diffusion.sampler import Sampler
from ttsnap.prompts import Prompt, seed_of, step_seed
from ttsnap.rewards import Reward
from ttsnap.schedule import CostModel
from ttsnap.searching import METHODS, Candidate, SearchResult
from ttsnap.searching.budget import Budget
from ttsnap.searching.executor import Backoffs, Executor
from ttsnap.searching.methods import MethodOptions
from ttsnap.searching.methods.beam import Beam
from ttsnap.searching.methods.bfs import Bfs
from ttsnap.searching.methods.code import Code
from ttsnap.searching.methods.das import Das
from ttsnap.searching.methods.dfs import Dfs
from ttsnap.searching.methods.draft import Drafts
from ttsnap.searching.methods.eps_greedy import EpsGreedy
from ttsnap.searching.methods.evosearch import EvoSearch
from ttsnap.searching.methods.funnel import Funnel
from ttsnap.searching.methods.mcts import Mcts
from ttsnap.searching.methods.noise_zero_order import NoiseZeroOrder
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.methods.rbf import Rbf
from ttsnap.searching.methods.smc import Smc
from ttsnap.searching.methods.svdd import Svdd
from ttsnap.searching.methods.ttsnap_zero_order import Refinement
from ttsnap.searching.methods.verifier_threshold import VerifierThreshold
from ttsnap.searching.methods.zero_order import ZeroOrder
from ttsnap.searching.noise import reproduce
from ttsnap.searching.record import Generator
from ttsnap.searching.searcher import Searcher
from ttsnap.searching.task import SearchTask

STEPS = 4
LAST = STEPS - 1
PROMPT = Prompt("p0", "a red circle", "", 0)
SEED = 7
COSTS = CostModel(denoise=1.0, decode=0.25, reward=0.125, steps=STEPS)
FULL = COSTS.cost(1)

# Small sizes, so that every part of a method happens within a few full runs.
OPTIONS: dict[str, MethodOptions] = {
    "best-of-n": MethodOptions(),
    "ttsnap": Pruning(schedule="0:0.6,1:0.5"),
    "ttsp": Pruning(schedule="1:0.5"),
    "random": MethodOptions(),
    "zero-order": ZeroOrder(neighbours=2),
    "ttsnap+zero-order": Refinement(schedule="1:0.5", neighbours=2, share=0.5),
    "draft": Drafts(draft_steps=3, keep=0.5),
    "rejection": MethodOptions(),
    "beam": Beam(beams=2, noises=2),
    "mcts": Mcts(noises=2),
    "noise-zero-order": NoiseZeroOrder(noises=2, iterations=2),
    "eps-greedy": EpsGreedy(noises=2, iterations=2),
    "smc": Smc(strength=3.0),
    "das": Das(strength=3.0),
    "funnel": Funnel(strength=3.0),
    "bfs": Bfs(strength=3.0),
    "svdd": Svdd(noises=2),
    "code": Code(noises=2, block=2),
    "rbf": Rbf(),
    "verifier-threshold": VerifierThreshold(share=0.5),
    "dfs": Dfs(share=0.5, backtracks=2),
    "evosearch": EvoSearch(elites=1),
}

ONE_BY_ONE = ("rbf", "verifier-threshold", "dfs")
"""Methods whose next evaluation depends on the last one, so that no two of them run together."""


def runs(name: str, usual: float) -> float:
    """Whole runs that a search is given: fewer where a test would take long for want of batches."""
    return min(usual, 3 + usual / 4) if name in ONE_BY_ONE else usual


def generator() -> Generator:
    """What drew pictures that no sampler drew."""
    model, machine = Model(path="tiny"), {"device": "cpu"}
    return Generator(model=model, pipeline=False, sampling=Sampling(), machine=machine)


class Function:
    """A reward that is a function of images (n, H, W, 3)."""

    scale = "that of the function"

    def __init__(self, function: Callable[[NDArray[np.uint8]], Any], name: str = "function"):
        self.function, self.name = function, name

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(self.function(images), np.float32)

    def tflops(self, height: int, width: int) -> float:
        return 0.0


def failing(above: float) -> Function:
    """Mean brightness that cannot judge bright images, as a remote judge may not."""

    def score(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = images.mean(axis=(1, 2, 3))
        return np.where(means > above, np.nan, means)

    return Function(score, "failing")


@dataclass
class Models:
    """A sampler for each kind of method, and three rewards."""

    plain: Sampler
    noisy: Sampler
    rewards: list[Any]

    def sampler(self, name: str) -> Sampler:
        """The one that a method is tried with."""
        return self.noisy if METHODS[name].needs_noise else self.plain

    def search(
        self,
        name: str,
        options: MethodOptions | None = None,
        budget: float | None = None,
        *,
        sampler: Sampler | None = None,
        rewards: Sequence[Reward] | None = None,
        costs: CostModel = COSTS,
        prompt: Prompt = PROMPT,
        verifiers: Mapping[int, tuple[Reward, ...]] | None = None,
        batch_size: int = 64,
        keep_finals: bool = False,
        **watched: Any,
    ) -> SearchResult:
        """Search by a method, with its small sizes and the first reward unless others are given."""
        searcher = Searcher(
            sampler or self.sampler(name),
            self.rewards[:1] if rewards is None else rewards,
            verifiers=verifiers,
            costs=costs,
            batch_size=batch_size,
            keep_finals=keep_finals,
        )
        return searcher.run(
            prompt,
            name,
            options or OPTIONS[name],
            budget=Budget(runs(name, 7.9) * FULL if budget is None else budget, costs.unit),
            seed=SEED,
            **watched,
        )

    def executor(
        self,
        name: str,
        options: MethodOptions | None = None,
        budget: float = 100 * FULL,
        sampler: Sampler | None = None,
        costs: CostModel = COSTS,
    ) -> Executor:
        """What a method is handed, to call its parts."""
        sampler = sampler or self.sampler(name)
        task = SearchTask(
            method=name,
            options=options or OPTIONS[name],
            sampler=sampler,
            conditioning=sampler.encode([PROMPT.text], [PROMPT.negative]),
            prompt=PROMPT.text,
            negative_prompt=PROMPT.negative,
            rewards=tuple(self.rewards[:1]),
            names=("clip0",),
            verifiers={},
            costs=costs,
            budget=budget,
            seed_of=lambda i: seed_of(SEED, PROMPT.id, i),
            generator=generator(),
            model="tiny",
            batch_size=64,
            keep_finals=False,
            observe=lambda progress: None,
            cancelled=lambda: False,
        )
        return Executor(task, Backoffs())

    def again(self, name: str, candidate: Candidate, options: MethodOptions | None = None) -> Any:
        """The candidate's final image, from what was recorded of it alone."""
        return again(self.sampler(name), candidate, options or OPTIONS[name])

    def by_hand(self, sampler: Sampler, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Final images (n, H, W, 3) of whole trajectories, and their scores (n,)."""
        conditioning = sampler.encode([PROMPT.text], [PROMPT.negative])
        state = sampler.start(conditioning, seeds, rows=[0] * len(seeds))
        for step in range(STEPS):
            noise = sampler.noise([step_seed(seed, step) for seed in seeds])
            state, _ = sampler.step(state, noise if sampler.stochastic else None)
        images = sampler.decode(state.latents)
        return images, self.rewards[0].score(images, [PROMPT.text] * len(seeds))


def again(
    sampler: Sampler, candidate: Candidate, options: MethodOptions, prompt: Prompt = PROMPT
) -> np.ndarray:
    """The candidate's final image, from what was recorded of it alone."""
    conditioning = sampler.encode([prompt.text], [prompt.negative])
    return reproduce(sampler, conditioning, candidate.noises, options.move(), candidate.reference)


def images_close(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal but for rounding: batches of other sizes may add up in another order."""
    return int(np.abs(first.astype(int) - second).max()) <= 1


def rows_of(sampler: Sampler, patch: Any) -> list[tuple[str, float, bytes]]:
    """Run, timestep and bytes of every row that reaches the denoiser from here on.

    A draft is a run of its own.
    """
    seen: list[tuple[str, float, bytes]] = []

    def watch(one: Sampler, run: str) -> None:
        denoise = one.denoise

        def watched(model_input: torch.Tensor, timestep: Any, *others: Any) -> torch.Tensor:
            seen.extend((run, float(timestep), row.numpy().tobytes()) for row in model_input)
            return denoise(model_input, timestep, *others)

        patch.setattr(one, "denoise", watched)

    def drafter(*settings: Any, make: Any = sampler.drafter) -> Sampler:
        made: Sampler = make(*settings)
        watch(made, "draft")
        return made

    watch(sampler, "full")
    patch.setattr(sampler, "drafter", drafter)
    return seen
