"""The search methods by their names, each with its settings. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ttsnap.config import Settings, StepIndex
from ttsnap.errors import UserError

if TYPE_CHECKING:
    from ttsnap.searching.result import SearchResult
    from ttsnap.searching.task import Task

Steps = Annotated[list[StepIndex], Field(min_length=1)]


class NoOptions(Settings):
    """A method whose size follows from the budget alone."""


class Pruning(Settings):
    """Checks at which the worst candidates are dropped (arXiv 2511.22242, section 3)."""

    schedule: str = Field(
        description="Checks STEP:KEEP,… such as 2:0.4,6:0.4; empty prunes nothing."
    )


class Climbing(Settings):
    """Hill climbing over the initial noise (arXiv 2501.09732, section 4.1)."""

    neighbours: int = Field(4, ge=0, description="Neighbours tried around a noise at once.")
    threshold: float = Field(
        0.95, gt=-1, lt=1, description="Cosine between a noise and its neighbours."
    )


class ZeroOrder(Climbing):
    """Hill climbing over the initial noise, from one fresh noise after the other."""

    step: StepIndex | None = Field(
        None,
        description="Step index at which noises are compared, by its verifier; only the top of a "
        "hill is finished. null compares final images.",
    )


class Refinement(Pruning, Climbing):
    """Pruning, then hill climbing from the survivors, the best one first."""

    share: float = Field(0.3, gt=0, lt=1, description="Share of the budget kept for climbing.")


class Beam(Settings):
    """Beam search over the noise of the steps (arXiv 2506.03164)."""

    beams: PositiveInt = Field(2, description="Branches kept at every look.")
    noises: PositiveInt = Field(4, description="Noises tried for each branch.")
    steps: Steps | None = Field(
        None, description="Step indices of the looks, after the first; null is all."
    )


class Mcts(Settings):
    """Monte Carlo tree search over the noise of the steps (arXiv 2506.03164)."""

    noises: PositiveInt = Field(4, description="Children of a node: noises tried at a step.")
    simulations: PositiveInt = Field(8, description="Expansions before the root moves one step.")
    exploration: float = Field(
        1.414, ge=0, description="UCB's c, in deviations of the rewards seen so far."
    )


class NoiseZeroOrder(Settings):
    """Hill climbing over the noise of every step (arXiv 2506.03164)."""

    noises: PositiveInt = Field(4, description="Noises tried around the pivot at once.")
    iterations: PositiveInt = Field(
        20, description="Times that the pivot may move at a step; a small budget affords fewer."
    )
    distance: PositiveFloat = Field(
        0.15, description="Largest distance from the pivot, as a share of the norm of noise."
    )


class EpsGreedy(NoiseZeroOrder):
    """The same with a share of fresh noises, which explore (arXiv 2506.03164)."""

    epsilon: float = Field(0.4, ge=0, le=1, description="Probability of a fresh noise.")


class Smc(Settings):
    """Sequential Monte Carlo: Feynman-Kac steering (arXiv 2501.06848)."""

    strength: float = Field(
        2.0, ge=0, description="Inverse temperature of the weights, per deviation of the scores."
    )
    potential: Literal["difference", "max"] = Field(
        "difference",
        description="A particle's weight: its gain since the last look, or its best so far.",
    )
    steps: Steps | None = Field(
        None, description="Step indices of the resampling; null is four spread evenly."
    )


@dataclass(frozen=True)
class Method:
    """A search method.

    Attributes:
        name: on the command line.
        summary: one line on what it does.
        place: its function as ``module:function``, which takes a run and options.
        needs_stochastic: whether it searches the noise of the steps; all others need a sampler
            whose images follow from their initial noise.
        options: its settings, with published defaults.
    """

    name: str
    summary: str
    place: str
    needs_stochastic: bool = False
    options: type[Settings] = NoOptions


def _of(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


METHODS = _of(
    Method("best-of-n", "finish every candidate, take the best", "pruning:best_of_n"),
    Method(
        "ttsnap",
        "prune candidates early by what NARF checkpoints say of their estimates",
        "pruning:ttsnap",
        options=Pruning,
    ),
    Method("ttsp", "the same by the untouched reward", "pruning:ttsp", options=Pruning),
    Method("random", "rounds of 2, 4, 8, … fresh noises, the best of all", "random:random_search"),
    Method(
        "zero-order",
        "climb from noise to better noise near by, begin anew where none is better",
        "zero_order:zero_order",
        options=ZeroOrder,
    ),
    Method(
        "ttsnap+zero-order",
        "prune first, then climb from the survivors",
        "ttsnap_zero_order:refine",
        options=Refinement,
    ),
    Method("rejection", "best-of-N with noise at every step", "pruning:best_of_n", True),
    Method(
        "beam",
        "at every step keep the best of many branches, by their next estimates",
        "beam:beam",
        True,
        Beam,
    ),
    Method(
        "mcts",
        "grow a tree of noises where finished images were good",
        "mcts:mcts",
        True,
        Mcts,
    ),
    Method(
        "noise-zero-order",
        "at every step climb from noise to better noise near by",
        "noise_zero_order:noise_zero_order",
        True,
        NoiseZeroOrder,
    ),
    Method(
        "eps-greedy",
        "the same, some of the noises fresh",
        "noise_zero_order:eps_greedy",
        True,
        EpsGreedy,
    ),
    Method("smc", "resample candidates in proportion to their weights", "smc:smc", True, Smc),
)


def run_method(name: str, task: Task, options: Settings | None = None) -> SearchResult:
    """Search with a method.

    Args:
        name: one of ``METHODS``.
        task: the prompt, the models and the budget.
        options: an instance of the method's own options; None is their defaults.

    Raises:
        UserError: there is no such method, the sampler is none that it can use, the budget does
            not afford one image, or all final images failed to be scored.
    """
    if name not in METHODS:
        raise UserError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    method = METHODS[name]
    if task.sampler.stochastic != method.needs_stochastic:
        raise UserError(
            f"method {name}: "
            + (
                "searches the noise of the steps and needs a stochastic scheduler, such as "
                "DDIMScheduler with eta 1"
                if method.needs_stochastic
                else "needs a deterministic scheduler, whose images follow from their seeds; "
                "choose another sampling.scheduler, or eta 0"
            )
        )
    from ttsnap.searching.engine import Interrupted, Run

    options = options or method.options()
    module, _, function = method.place.partition(":")
    search: Any = getattr(import_module(f"ttsnap.searching.methods.{module}"), function)
    run = Run(task, name, options)
    try:
        search(run, options)
    except Interrupted as interruption:
        run.finish_one(interruption.group)
    return run.result()
