"""Monte Carlo tree search over the noise of the steps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.searches import COSTS, FULL, LAST, PROMPT, STEPS, Models, images_close
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.searching.methods.mcts import Mcts, Node, Tree, branching, grow, price


def nodes(root: Node) -> Iterator[Node]:
    yield root
    for child in root.children:
        yield from nodes(child)


def test_a_node_is_worth_the_mean_of_its_rollouts(models: Models) -> None:
    options = Mcts(noises=2, exploration=0.5)
    run = models.executor("mcts", options)
    tree = Tree(run, options, run.noisy)
    for count in range(1, 9):
        assert tree.simulate()
        assert len(tree.root.rollouts) == len(run.ledger.finished) == count  # one a simulation

    def check(node: Node) -> list[int]:
        """The finished candidates of the nodes below, which must be those backed up."""
        below = [i for child in node.visited for i in check(child)]
        own = [i for i in node.rollouts if i not in below]
        assert own == ([] if node is tree.root else [node.index])
        assert sorted(node.rollouts) == sorted(own + below)
        candidates = run.ledger.candidates
        mean = np.mean([candidates[i].rewards["clip0"] for i in node.rollouts])
        raw = np.array([c.rewards.get("clip0", np.nan) for c in candidates])
        assert node.value(raw) == pytest.approx(mean)
        return node.rollouts

    assert len(check(tree.root)) == 8
    assert max(node.depth for node in nodes(tree.root) if node.rollouts) > 1  # it did go deeper
    scores = tree.scores()
    values = [child.value(scores) for child in tree.root.children]
    best = tree.root.children[int(np.argmax(values))]
    tree.move()
    assert tree.root is best


def test_children_that_were_not_visited_come_first(models: Models) -> None:
    options = Mcts(noises=3)
    run = models.executor("mcts", options)
    tree = Tree(run, options, run.noisy)
    for count in (1, 2, 3):
        tree.simulate()
        assert len(tree.root.children) == 3  # all at once, and each rolled out in its turn
        assert len(tree.root.visited) == count
        assert not any(child.children for child in tree.root.children)
    tree.simulate()
    assert sum(bool(child.children) for child in tree.root.children) == 1


def test_then_the_highest_bound_is_followed(models: Models) -> None:
    options = Mcts(noises=2, exploration=0.0)
    run = models.executor("mcts", options)
    tree = Tree(run, options, run.noisy)
    for _ in range(2):
        tree.simulate()
    first, second = (
        run.ledger.candidates[child.rollouts[0]].rewards["clip0"] for child in tree.root.children
    )
    tree.simulate()
    grown = [bool(child.children) for child in tree.root.children]
    assert grown == [first > second, second > first]


@pytest.mark.parametrize(("runs", "moves"), [(4, 3), (8, 6), (12, 11), (40, 11)])
def test_the_root_comes_to_the_last_step(models: Models, runs: int, moves: int) -> None:
    """At 12 steps it used to stand still, at 0 of 11 moves, in what these budgets buy."""
    scheduler = Scheduler(name="DDIMScheduler", options={"eta": 1.0})
    sampling = Sampling(steps=12, guidance_scale=1.0, scheduler=scheduler)
    sampler = from_pipeline(models.noisy.pipe, sampling)
    costs = replace(COSTS, steps=12)
    options = Mcts(noises=2)
    run = models.executor("mcts", options, runs * costs.cost(1), sampler, costs)
    steps = branching(run, options)
    assert len(steps) == moves
    tree = grow(run, options)
    assert tree is not None
    assert tree.root.depth == len(steps)
    assert len(run.ledger.finished) >= 2 * len(steps)
    assert run.planned == pytest.approx(run.meter.spent)
    # What is chosen in the end was finished: its candidate has the noise of every step.
    assert tree.root.index is not None
    assert all(run.ledger.candidates[tree.root.index].noises)


def test_what_the_root_leaves_behind_is_freed_at_once(models: Models) -> None:
    options = Mcts(noises=3)
    run = models.executor("mcts", options)
    tree = Tree(run, options, run.noisy)
    for _ in range(12):
        tree.simulate()
    made = weakref.WeakSet(nodes(tree.root))
    before = len(made)
    gc.disable()  # the moment that the last name of a node goes is all it takes
    try:
        tree.move()
        alive = len(made)
    finally:
        gc.enable()
    assert before > alive == len([*nodes(tree.root)])


@pytest.mark.parametrize("noiseless", [True, False])
def test_rolling_out_adds_noise_only_if_asked(models: Models, noiseless: bool) -> None:
    options = Mcts(noises=2, noiseless=noiseless)
    run = models.executor("mcts", options)
    tree = Tree(run, options, run.noisy)
    for _ in range(2):
        tree.simulate()
    for index in tree.root.rollouts:
        candidate = run.ledger.candidates[index]
        start, chosen, *further = candidate.noises
        assert (len(start), len(chosen), len(further)) == (1, 1, STEPS - 1)
        assert all((recipe == ()) == noiseless for recipe in further)
        image = models.again("mcts", candidate, options)
        assert models.rewards[0].score(image[None], [PROMPT.text])[0] == pytest.approx(
            candidate.rewards["clip0"], abs=1e-4
        )


def test_a_simulation_costs_what_is_left_of_the_way(models: Models) -> None:
    options = Mcts(noises=2)
    run = models.executor("mcts", options)
    tree = Tree(run, options, run.noisy)
    assert run.meter.spent == COSTS.denoise
    for step in run.noisy:
        before = run.meter.spent
        tree.simulate()
        assert run.meter.spent - before == price(run, step)
        assert price(run, step) == (LAST - step) * COSTS.denoise + COSTS.verify
        tree.move()


def test_the_smallest_tree_is_a_plain_trajectory(models: Models) -> None:
    result = models.search("mcts", budget=FULL)
    plain = models.search("rejection", budget=FULL)
    assert (result.nfe, result.scored) == (STEPS, 1)
    assert images_close(result.image, plain.image)
