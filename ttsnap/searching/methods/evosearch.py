"""EvoSearch: selection and mutation of initial noises, then of states on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt

from ttsnap.prompts import seed_of
from ttsnap.searching.ledger import best, merit
from ttsnap.searching.methods.base import Method, MethodOptions, Steps
from ttsnap.searching.methods.particles import evenly, looks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ttsnap.searching.executor import Cohort, Executor
    from ttsnap.searching.noise import Move, Recipe

GENERATIONS = 2  # of states on the way, by default
ENTRANTS = 0.9  # share of a population that takes part in a tournament


class EvoSearch(MethodOptions):
    """Evolution of initial noises and of states on the way (arXiv 2505.17618)."""

    mutation: float = Field(
        0.2, gt=0, le=1, description="Share β of another noise that a mutation mixes in."
    )
    elites: NonNegativeInt = Field(3, description="The best, which stay in the population.")
    steps: Steps | None = Field(
        None,
        description="Step indices whose states evolve, after the initial noises; null is two "
        "spread evenly.",
    )

    def move(self) -> Move:
        """To a noise that is mixed with another, of the same variance."""
        from ttsnap.searching.noise import mixture

        return mixture(self.mutation)


@dataclass(frozen=True, eq=False)
class Member:
    """A finished candidate of a population.

    Attributes:
        index: of the candidate.
        noise: recipe of its initial noise.
        states: step that evolves -> the candidate alone, evaluated there.
    """

    index: int
    noise: Recipe
    states: dict[int, Cohort]


class Birth(NamedTuple):
    """A child to be: its parent, and how many of its generation the parent has with it."""

    parent: Member
    number: int


def evosearch(run: Executor, options: EvoSearch) -> None:
    """Evolve noises, then states, by the final images they lead to (arXiv 2505.17618).

    A population of initial noises is finished and scored. The elite stays; children come from
    winners of tournaments, by mixing their noise with another one, and are finished too. Then
    states on the way evolve in the same way, one step after the other: a child takes its parent's
    state and a mutated noise of the step. Every generation has the same share of the budget, so
    that later ones, whose children have less of the way to go, are larger.

    Read: the abstract and the authors' repository, tinnerhrhe/EvoSearch-codes. What differs: noises
    are mixed at the same variance at every step, where theirs adds another noise to a state, which
    leaves more noise in it than the model expects there; and the elite, whose images are known, is
    not run again.
    """
    steps = looks(run, options.steps, evenly(run.noisy, GENERATIONS))
    run.meter.affordable()
    population: list[Member] = []
    generations: list[int | None] = [None, None, *steps]
    for number, step in enumerate(generations):
        run.message = "initial noises" if step is None else f"states of step {step}"
        begun = 0 if step is None else step + 1
        later = [state for state in steps if state >= begun]
        affordable = run.meter.count(_price(run, begun))
        count = min(affordable, max(1, affordable // (len(generations) - number)))
        births = tournaments(run, population, number, count) if population else []
        elite: list[Member] = []
        if population:
            elite = [population[i] for i in best(_values(run, population), options.elites)]
        children: list[Member] = []
        # One batch after the other, for where seconds run short fewer are begun.
        while size := min(
            count - len(children), run.task.batch_size, run.meter.count(_price(run, begun))
        ):
            run.planned += size * _price(run, begun)
            run.alive = size
            chosen = births[len(children) : len(children) + size]
            if not population:
                cohort = run.start(size)
            else:
                cohort = _noises(run, chosen) if step is None else _states(run, chosen, step)
            children += _finish(run, cohort, later)
        population = elite + children
        run.ledger.end_round()


def _price(run: Executor, begun: int) -> float:
    """What a child costs whose first evaluation is at step ``begun``."""
    costs = run.meter.costs
    return (run.last + 1 - begun) * costs.denoise + costs.verify


def _values(run: Executor, population: Sequence[Member]) -> np.ndarray:
    """Scores (R, n) of the final images."""
    return np.stack([run.ledger.final(member.index) for member in population], axis=1)


def tournaments(
    run: Executor, population: Sequence[Member], number: int, count: int
) -> list[Birth]:
    """Births by the winners of ``count`` tournaments, each among a random share of the population.

    Args:
        run: the search.
        population: its finished candidates.
        number: of the generation, which the draws follow from.
        count: see above.
    """
    merits = merit(_values(run, population))
    rng = np.random.default_rng(seed_of(run.ledger.candidates[0].seed, "tournament", number))
    entrants = max(1, int(ENTRANTS * len(population)))
    before: Counter[int] = Counter()
    births = []
    for _ in range(count):
        drawn = np.sort(rng.permutation(len(population))[:entrants])
        parent = population[drawn[merits[drawn].argmax()]]
        before[parent.index] += 1
        births.append(Birth(parent, before[parent.index]))
    return births


def _noises(run: Executor, births: Sequence[Birth]) -> Cohort:
    """Children before their first step, from the mutated noises of their parents."""
    who = [run.ledger.derive(parent.index, "mutation", number) for parent, number in births]
    seeds = [run.ledger.candidates[index].seed for index in who]
    recipes = [(*birth.parent.noise, seed) for birth, seed in zip(births, seeds, strict=True)]
    return run.start_from(who, recipes)


def _states(run: Executor, births: Sequence[Birth], step: int) -> Cohort:
    """Children from their parents' states at ``step``, by mutated noises of it."""
    known = run.ledger.candidates
    cohorts = [run.branch(parent.states[step], [0], number) for parent, number in births]
    recipes = [
        (*known[birth.parent.index].noises[step + 1], known[cohort.who[0]].seed)
        for birth, cohort in zip(births, cohorts, strict=True)
    ]
    return run.step(run.concat(cohorts), recipes)


def _finish(run: Executor, cohort: Cohort, steps: Sequence[int]) -> list[Member]:
    """Run children to their final images, and keep their states at ``steps`` on the way."""
    noises = [known[0] for known in cohort.noises]
    states: list[dict[int, Cohort]] = [{} for _ in noises]
    for step in steps:
        cohort = run.advance(cohort, step)
        for row, kept in enumerate(states):
            kept[step] = run.select(cohort, [row])
    run.reach(cohort, run.last)
    return [Member(*known) for known in zip(cohort.who, noises, states, strict=True)]


METHOD = Method(
    "evosearch",
    "evolve initial noises, then states on the way, by the final images they lead to",
    evosearch,
    EvoSearch,
    needs_noise=True,
)
