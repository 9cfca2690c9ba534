"""Monte Carlo tree search over the noise of the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from ttsnap.searching.engine import Group, Run, standardised

if TYPE_CHECKING:
    from ttsnap.searching.methods import Mcts


def mcts(run: Run, options: Mcts) -> None:
    """Grow trees of noises until the budget is spent (arXiv 2506.03164, section 3).

    A simulation goes down the tree by the upper confidence bounds of nodes, gives the node it ends
    at children of fresh noise, and finishes each of them with more of it. Rewards of these final
    images are backed up to all nodes above. After a number of simulations the root moves to its
    best child. A tree that has come to its last step is followed by another. The last simulation
    has as many children as the budget affords, the smallest tree is one plain trajectory.
    """
    run.meter.affordable()
    run.message = "growing a tree"
    while run.meter.affords(run.meter.costs.cost(1)):
        tree = Tree(run, options)
        while tree.root.open and tree.simulate():
            tree.simulations += 1
            if tree.simulations == options.simulations or not tree.root.open:
                tree.move()
        run.end_round()


@dataclass(eq=False)
class Node:
    """A candidate before some step.

    Attributes:
        group: the candidate, evaluated.
        last: whether no noise is left to choose.
        parent: whose noise it continues.
        children: each with another noise of the step.
        rollouts: candidates that were finished from here or further down.
    """

    group: Group
    last: bool
    parent: Node | None = None
    children: list[Self] = field(default_factory=list)
    rollouts: list[int] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether a leaf below could be given children."""
        if self.children:
            return any(child.open for child in self.children)
        return not self.last

    def value(self, scores: np.ndarray) -> float:
        """Mean score of its rollouts; -inf if none could be scored.

        Args:
            scores: of every candidate.
        """
        mine = scores[self.rollouts]
        good = mine[np.isfinite(mine)]
        return float(good.mean()) if len(good) else -np.inf


class Tree:
    """A tree of one initial noise."""

    def __init__(self, run: Run, options: Mcts) -> None:
        self.run, self.options = run, options
        run.planned += run.meter.costs.denoise
        self.root = Node(run.evaluate(run.start(1)), last=False)
        self.simulations = 0

    def scores(self) -> np.ndarray:
        """Of every candidate that the run knows, standardised; NaN for those not finished."""
        run = self.run
        finished = run.finished()
        scores = np.full(len(run.candidates), np.nan)
        if finished:
            values = np.stack([run.final(i) for i in finished], axis=1)
            scores[finished] = standardised(values)
        return scores

    def simulate(self) -> bool:
        """Select, expand, roll out and back up; False if the budget affords none of it."""
        run, costs = self.run, self.run.meter.costs
        scores, node = self.scores(), self.root
        while node.children:
            node = max(
                (child for child in node.children if child.open),
                key=lambda child: self.bound(child, scores),
            )
        price = (run.last - node.group.state.index) * costs.denoise + costs.verify
        count = min(self.options.noises, int(run.meter.left / price * (1 + 1e-9)))
        if not count:
            return False
        run.planned += count * price
        run.alive = count
        # The candidate of the root itself has not been finished yet.
        fresh = run.branch(node.group, [0] * count, keep=not node.rollouts)
        reached = run.evaluate(run.step(fresh))
        finished, _ = run.reach(reached, run.last)
        last = reached.state.index == run.last
        for row, index in enumerate(finished.who):
            child = Node(run.select(reached, [row]), last, node)
            node.children.append(child)
            above: Node | None = child
            while above is not None:
                above.rollouts.append(index)
                above = above.parent
        return True

    def bound(self, node: Node, scores: np.ndarray) -> float:
        """UCB1 of a child (Auer et al. 2002): its mean, and more the less it was tried."""
        assert node.parent is not None
        tries = np.log(len(node.parent.rollouts)) / len(node.rollouts)
        return node.value(scores) + self.options.exploration * float(np.sqrt(tries))

    def move(self) -> None:
        """Make the best child the root; its siblings are forgotten."""
        scores = self.scores()
        self.root = max(self.root.children, key=lambda child: child.value(scores))
        self.root.parent = None
        self.simulations = 0
