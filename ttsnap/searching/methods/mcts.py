"""Monte Carlo tree search over the noise of the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt

from ttsnap.searching.ledger import standardised
from ttsnap.searching.methods.base import Method, MethodOptions

if TYPE_CHECKING:
    from ttsnap.searching.executor import Cohort, Executor


class Mcts(MethodOptions):
    """Monte Carlo tree search over the noise of the steps (arXiv 2506.03164)."""

    noises: PositiveInt = Field(4, description="Children of a node: noises tried at a step.")
    simulations: PositiveInt | None = Field(
        None,
        description="Roll-outs before the root moves on; null takes as many as the budget affords "
        "all the way to the last step.",
    )
    exploration: float = Field(
        1.414, ge=0, description="UCB's c, in deviations of the rewards seen so far."
    )
    noiseless: bool = Field(
        True, description="Roll out without noise, as published; false adds fresh noise."
    )


def mcts(run: Executor, options: Mcts) -> None:
    """Grow trees of noises until the budget is spent (arXiv 2506.03164, section 3).

    A simulation goes down the tree, to children that were not visited before all others, then by
    upper confidence bounds. Where it comes to a node without children, the node is given some, each
    another noise of the step. It rolls one child out to a final image, whose reward is backed up to
    all nodes above. After a number of simulations the root moves to its best child, until it comes
    to the last step; then another tree follows.

    Unlike as published, that number follows from the budget, so that the root does come to the last
    step. Where the budget is too small for that with two simulations at every step, the tree
    branches at fewer of them, evenly spread, and follows one noise in between; the smallest tree is
    one plain trajectory. Of all images that were finished the best is taken, not only the last.
    """
    run.meter.affordable()
    run.message = "growing a tree"
    while run.meter.affords(run.meter.costs.cost(1)):
        grow(run, options)
        run.ledger.end_round()


def grow(run: Executor, options: Mcts) -> Tree | None:
    """One tree, from its initial noise to where its root ends; None for a plain trajectory."""
    steps = branching(run, options)
    if not steps:
        run.planned += run.meter.costs.cost(1)
        run.alive = 1
        run.reach(run.start(1), run.last)
        return None
    tree = Tree(run, options, steps)
    while tree.root.depth < len(steps):
        for _ in range(tree.simulations()):
            if not (tree.root.open and tree.simulate()):
                break
        if not tree.root.visited:
            break
        tree.move()
    return tree


def branching(run: Executor, options: Mcts) -> list[int]:
    """The steps at which a tree branches, as many as what is left of the budget affords.

    That is with as many simulations at each as were asked for, or two; none if not even at one.
    """
    noisy = run.noisy
    least = options.simulations or min(2, options.noises)
    for count in range(len(noisy), 0, -1):
        places = np.linspace(0, len(noisy), count, endpoint=False).astype(int)
        steps = [noisy[place] for place in places]
        start = (steps[0] + 1) * run.meter.costs.denoise
        if run.meter.affords(start + least * sum(price(run, step) for step in steps)):
            return steps
    return []


def price(run: Executor, step: int) -> float:
    """What rolling a child out costs, the parent evaluated at ``step``."""
    costs = run.meter.costs
    return (run.last - step) * costs.denoise + costs.verify


@dataclass(eq=False)
class Node:
    """A candidate before a step at which the tree branches, or at its end.

    No node knows its parent: when the root moves, all that it leaves behind is freed.

    Attributes:
        depth: number of noises chosen so far.
        index: of the candidate that was rolled out from here; None before.
        cohort: the candidate, evaluated; None before a visit, and at the end.
        children: each with another noise of the step; none before it is expanded.
        rollouts: candidates that were finished from here or further down.
    """

    depth: int
    index: int | None = None
    cohort: Cohort | None = None
    children: list[Node] = field(default_factory=list)
    rollouts: list[int] = field(default_factory=list)

    @property
    def visited(self) -> list[Node]:
        """The children that were rolled out."""
        return [child for child in self.children if child.rollouts]

    @property
    def open(self) -> bool:
        """Whether there is something below that was not rolled out yet."""
        if self.children:
            return any(not child.rollouts or child.open for child in self.children)
        return self.cohort is not None

    def value(self, scores: np.ndarray) -> float:
        """Mean score of its rollouts; -inf if none could be scored.

        Args:
            scores: of every candidate.
        """
        mine = scores[self.rollouts]
        good = mine[np.isfinite(mine)]
        return float(good.mean()) if len(good) else -np.inf


class Tree:
    """A tree of one initial noise, which branches at ``steps``.

    Attributes:
        root: from where simulations start.
        steps: at whose noise it branches.
    """

    def __init__(self, run: Executor, options: Mcts, steps: list[int]) -> None:
        self.run, self.options, self.steps = run, options, steps
        run.planned += (steps[0] + 1) * run.meter.costs.denoise
        self.root = Node(0, cohort=run.advance(run.start(1), steps[0]))

    def simulations(self) -> int:
        """How many to make before the root moves on."""
        if self.options.simulations is not None:
            return self.options.simulations
        ahead = sum(price(self.run, step) for step in self.steps[self.root.depth :])
        return max(1, self.run.meter.count(ahead))

    def scores(self) -> np.ndarray:
        """Of every candidate that the run knows, standardised; NaN for those not finished."""
        ledger = self.run.ledger
        finished = ledger.finished
        scores = np.full(len(ledger.candidates), np.nan)
        if finished:
            values = np.stack([ledger.final(i) for i in finished], axis=1)
            scores[finished] = standardised(values)
        return scores

    def simulate(self) -> bool:
        """Select, expand, roll out and back up; False if the budget does not afford it."""
        run, scores = self.run, self.scores()
        path = [self.root]
        while (node := path[-1]).children and not (fresh := _unvisited(node)):
            below = [child for child in node.children if child.open]
            path.append(max(below, key=lambda child: self.bound(child, node, scores)))
        assert node.cohort is not None
        cost = price(run, self.steps[node.depth])
        if not run.meter.affords(cost):
            return False
        run.planned += cost
        run.alive = 1
        if not node.children:
            node.children = [Node(node.depth + 1) for _ in range(self.options.noises)]
            fresh = node.children
        child = fresh[0]
        self._visit(node, child)
        assert child.index is not None
        for above in [*path, child]:
            above.rollouts.append(child.index)
        return True

    def _visit(self, parent: Node, child: Node) -> None:
        """Give a child its noise, and roll it out."""
        run = self.run
        assert parent.cohort is not None
        # The parent's own candidate is finished, but for the first root's.
        before = len(parent.visited) + (parent.index is not None)
        reached = run.step(run.branch(parent.cohort, [0], before))
        child.index = reached.who[0]
        last = child.depth == len(self.steps)
        reached = run.advance(reached, run.last if last else self.steps[child.depth])
        if not last:
            child.cohort = reached
            if self.options.noiseless:
                reached = run.roll_out(reached)
        run.reach(reached, run.last)

    def bound(self, child: Node, parent: Node, scores: np.ndarray) -> float:
        """UCB1 of a child (Auer et al. 2002): its mean, and more the less it was tried."""
        tries = np.log(len(parent.rollouts)) / len(child.rollouts)
        return child.value(scores) + self.options.exploration * float(np.sqrt(tries))

    def move(self) -> None:
        """Make the best child the root; all else is forgotten."""
        scores = self.scores()
        self.root = max(self.root.visited, key=lambda child: child.value(scores))


def _unvisited(node: Node) -> list[Node]:
    return [child for child in node.children if not child.rollouts]


METHOD = Method(
    "mcts",
    "grow a tree of noises where finished images were good",
    mcts,
    Mcts,
    needs_noise=True,
)
