"""What holds for every method, and the cases in which one must equal another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sampling import tiny_previewer, with_little_memory
from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import tiny_clip
from ttsnap.config import RewardSettings, Sampling, Scheduler, Settings
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.prompts import seed_of
from ttsnap.rewards import Reward
from ttsnap.rewards.clip import ClipReward
from ttsnap.schedule import CostModel
from ttsnap.searching import METHODS, Candidate, SearchResult, Task, run_method
from ttsnap.searching.engine import Interrupted, Run
from ttsnap.searching.methods import (
    Beam,
    EpsGreedy,
    Mcts,
    NoiseZeroOrder,
    Pruning,
    Refinement,
    Smc,
    ZeroOrder,
)
from ttsnap.searching.methods.mcts import Node, Tree
from ttsnap.searching.methods.smc import systematic
from ttsnap.searching.noise import NoiseSource, ball, reproduce, sphere, step_seed
from ttsnap.searching.output import events

STEPS = 4
LAST = STEPS - 1
PROMPT = "a red circle"
COSTS = CostModel(denoise=1.0, decode=0.25, reward=0.125, steps=STEPS)
FULL = COSTS.cost(1)

# Small sizes, so that every part of a method happens within a few full runs.
OPTIONS: dict[str, Settings | None] = {
    "best-of-n": None,
    "ttsnap": Pruning(schedule="0:0.6,1:0.5"),
    "ttsp": Pruning(schedule="1:0.5"),
    "random": None,
    "zero-order": ZeroOrder(neighbours=2),
    "ttsnap+zero-order": Refinement(schedule="1:0.5", neighbours=2, share=0.5),
    "rejection": None,
    "beam": Beam(beams=2, noises=2),
    "mcts": Mcts(noises=2, simulations=2),
    "noise-zero-order": NoiseZeroOrder(noises=2, iterations=2),
    "eps-greedy": EpsGreedy(noises=2, iterations=2),
    "smc": Smc(strength=3.0),
}
STOCHASTIC = [name for name, method in METHODS.items() if method.needs_stochastic]


class Failing:
    """A reward that cannot judge every image, as a remote judge may not."""

    name, scale = "failing", "mean brightness, 0 to 255"

    def __init__(self, above: float) -> None:
        self.above = above

    def score(self, images: NDArray[np.uint8], prompts: Any) -> NDArray[np.float32]:
        means = images.mean(axis=(1, 2, 3))
        return np.where(means > self.above, np.nan, means).astype(np.float32)

    def tflops(self, height: int, width: int) -> float:
        return 0.0


@pytest.fixture(scope="module")
def samplers() -> dict[bool, Sampler]:
    """By whether they are stochastic."""
    pipe = tiny_stable_diffusion()
    schedulers = {False: Scheduler(), True: Scheduler(name="DDIMScheduler", options={"eta": 1.0})}
    return {
        kind: from_pipeline(pipe, Sampling(steps=STEPS, guidance_scale=1.0, scheduler=scheduler))
        for kind, scheduler in schedulers.items()
    }


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> list[ClipReward]:
    folder = tmp_path_factory.mktemp("clip")
    folders = [tiny_clip(folder / str(seed), seed) for seed in (4, 0, 1)]
    loaded = [ClipReward.load(RewardSettings(path=str(path))) for path in folders]
    for index, reward in enumerate(loaded):
        reward.name = f"clip{index}"
    return loaded


@pytest.fixture
def tasks(samplers: dict[bool, Sampler], rewards: list[ClipReward]) -> dict[bool, Task]:
    """By whether the sampler is stochastic: a budget of 7.9 full runs, no verifiers."""
    return {
        kind: Task(
            sampler=sampler,
            conditioning=sampler.encode([PROMPT], [""]),
            prompt=PROMPT,
            rewards=(rewards[0],),
            costs=COSTS,
            budget=7.9 * FULL,
            seed_of=partial(seed_of, 7, "p0"),
            model="tiny",
        )
        for kind, sampler in samplers.items()
    }


def search(
    tasks: dict[bool, Task], name: str, options: Settings | None = None, **changes: Any
) -> SearchResult:
    task = replace(tasks[METHODS[name].needs_stochastic], **changes)
    return run_method(name, task, options or OPTIONS[name])


def rerun(task: Task, candidate: Candidate, name: str, options: Settings | None) -> np.ndarray:
    """The candidate's final image, from what was recorded of it alone."""
    return reproduce(
        task.sampler, task.conditioning, candidate.noises, options or METHODS[name].options()
    )


def plain(task: Task, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Final images (n, H, W, 3) of whole trajectories by hand, and their scores (n,)."""
    sampler = task.sampler
    state = sampler.start(task.conditioning, seeds, rows=[0] * len(seeds))
    for step in range(STEPS):
        noise = sampler.noise([step_seed(seed, step) for seed in seeds])
        state, _ = sampler.step(state, noise if sampler.stochastic else None)
    images = sampler.decode(state.latents)
    return images, task.reward.score(images, [PROMPT] * len(seeds))


def images_close(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal but for rounding: batches of other sizes may add up in another order."""
    return int(np.abs(first.astype(int) - second).max()) <= 1


def test_every_method_is_tried() -> None:
    assert set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_twice(tasks: dict[bool, Task], name: str) -> None:
    first, second = (search(tasks, name) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    traces = [[event | {"seconds": 0} for event in events(one)] for one in (first, second)]
    assert traces[0] == traces[1]


@pytest.mark.parametrize("runs", [1.0, 2.6, 7.9, 20.3])
@pytest.mark.parametrize("name", METHODS)
def test_spends_the_budget_and_never_more(tasks: dict[bool, Task], name: str, runs: float) -> None:
    # A pruned run of one candidate pays two looks besides.
    budget = runs * FULL + 4 * COSTS.verify
    result = search(tasks, name, budget=budget)
    smallest = FULL + 4 * COSTS.verify
    assert budget - smallest < result.spent <= budget * (1 + 1e-9)
    assert result.spent == pytest.approx(
        result.nfe * COSTS.denoise + result.decodes * COSTS.decode + result.scored * COSTS.reward
    )
    assert result.planned == pytest.approx(result.spent)
    assert result.unit == "TFLOPs"
    assert not result.interrupted


@pytest.mark.parametrize("name", METHODS)
def test_the_winner_can_be_made_again(tasks: dict[bool, Task], name: str) -> None:
    result = search(tasks, name, budget=20.3 * FULL)
    task = tasks[METHODS[name].needs_stochastic]
    winner = result.candidates[result.winner]
    image = rerun(task, winner, name, OPTIONS[name])
    assert images_close(image, result.image)
    finals = [c.rewards["clip0"] for c in result.candidates if c.rewards]
    assert result.score == max(finals) == winner.scores[LAST]
    assert result.score == pytest.approx(
        task.reward.score(result.image[None], [PROMPT])[0], abs=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_best_of_all_rounds_is_kept(tasks: dict[bool, Task], name: str) -> None:
    result = search(tasks, name, budget=20.3 * FULL, keep_finals=True)
    assert [r.search_round for r in result.rounds] == list(range(1, len(result.rounds) + 1))
    assert sum(r.num_noises for r in result.rounds) == len(result.finals)
    assert max(r.best_score for r in result.rounds) == result.score
    for entry in result.rounds:
        best = result.candidates[entry.best]
        assert (entry.best_noise_seed, entry.choice_of_metric) == (best.seed, "clip0")
        np.testing.assert_array_equal(entry.image, result.finals[entry.best])
    for index, candidate in enumerate(result.candidates):
        assert bool(candidate.rewards) == (index in result.finals)
        assert bool(candidate.rewards) == (candidate.pruned_at is None)
    np.testing.assert_array_equal(result.image, result.finals[result.winner])


@pytest.mark.parametrize("name", METHODS)
def test_small_batches_change_nothing(tasks: dict[bool, Task], name: str) -> None:
    whole, parts = search(tasks, name), search(tasks, name, batch_size=3)
    assert images_close(whole.image, parts.image)
    noises = [sorted(c.noises for c in result.candidates) for result in (whole, parts)]
    assert noises[0] == noises[1]
    assert whole.spent == pytest.approx(parts.spent)


@pytest.mark.parametrize("name", ["ttsnap", "beam"])
def test_little_memory_changes_nothing(
    tasks: dict[bool, Task], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(tasks, name)
    sampler = tasks[METHODS[name].needs_stochastic].sampler
    tried = with_little_memory(sampler, monkeypatch)
    pieces = search(tasks, name)
    assert max(tried["evaluate"]) > 2 >= tried["evaluate"][-1]
    assert max(tried["decode"]) > 1 == tried["decode"][-1]
    assert images_close(whole.image, pieces.image)
    assert [c.noises for c in whole.candidates] == [c.noises for c in pieces.candidates]
    assert (whole.nfe, whole.decodes, whole.spent) == (pieces.nfe, pieces.decodes, pieces.spent)


@pytest.mark.parametrize("name", METHODS)
def test_several_rewards_win_by_their_ranks(
    tasks: dict[bool, Task], rewards: list[ClipReward], name: str
) -> None:
    result = search(tasks, name, rewards=tuple(rewards), keep_finals=True)
    finals = [(i, list(c.rewards.values())) for i, c in enumerate(result.candidates) if c.rewards]
    values = np.array([scores for _, scores in finals])
    assert values.shape[1] == 3
    ranks = (values[:, None] < values[None]).sum(axis=1).sum(axis=1)  # how many are better, summed
    assert result.winner == finals[int(ranks.argmin())][0]
    assert result.rewards == ("clip0", "clip1", "clip2")
    assert search(tasks, name, rewards=tuple(rewards)).winner == result.winner


@pytest.mark.parametrize("name", METHODS)
def test_failed_scores_never_win(tasks: dict[bool, Task], name: str) -> None:
    scored = search(tasks, name, rewards=(Failing(1e9),), keep_finals=True)
    above = sorted(image.mean() for image in scored.finals.values())[-2]
    result = search(tasks, name, rewards=(Failing(above),))
    assert result.image.mean() <= above
    assert result.score == pytest.approx(result.image.mean(), rel=1e-5)
    with pytest.raises(UserError, match="final images could be scored by failing"):
        search(tasks, name, rewards=(Failing(-1.0),))


@pytest.mark.parametrize("allowed", [0, 1, 6])
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_it_gives_the_best_so_far(
    tasks: dict[bool, Task], name: str, allowed: int
) -> None:
    asked = count()
    result = search(tasks, name, cancelled=lambda: next(asked) >= allowed, batch_size=4)
    assert result.interrupted
    finals = [c.rewards["clip0"] for c in result.candidates if c.rewards]
    assert result.score == max(finals)
    assert result.spent < 7.9 * FULL
    task = tasks[METHODS[name].needs_stochastic]
    winner = result.candidates[result.winner]
    assert images_close(rerun(task, winner, name, OPTIONS[name]), result.image)


@pytest.mark.parametrize("name", ["ttsnap", "beam", "noise-zero-order", "eps-greedy", "smc"])
def test_verifiers_look_at_their_steps(
    tasks: dict[bool, Task], rewards: list[ClipReward], name: str
) -> None:
    plain, verified = (
        search(tasks, name, verifiers=verifiers)
        for verifiers in ({}, {1: (rewards[1],), 2: (rewards[2],)})
    )
    pairs = list(zip(plain.candidates, verified.candidates, strict=False))
    assert any(a.scores.get(1, 0) != b.scores.get(1, 0) for a, b in pairs)
    assert verified.score == pytest.approx(
        rewards[0].score(verified.image[None], [PROMPT])[0], abs=1e-5
    )


def test_zero_order_can_compare_noises_early(
    tasks: dict[bool, Task], rewards: list[ClipReward]
) -> None:
    options = ZeroOrder(neighbours=2, step=1)
    result = search(tasks, "zero-order", options, verifiers={1: (rewards[1],)})
    early, rest = COSTS.prices([1])
    looked = [c for c in result.candidates if 1 in c.scores]
    finished = [c for c in result.candidates if c.rewards]
    assert len(looked) == len(result.candidates) > len(finished) >= 1
    assert result.spent == pytest.approx(len(looked) * early + len(finished) * rest)
    assert result.spent > result.budget - early - rest
    assert all((c.pruned_at == 1) == (not c.rewards) for c in looked)
    winner = result.candidates[result.winner]
    assert images_close(rerun(tasks[False], winner, "zero-order", options), result.image)


def test_zero_order_climbs_until_nothing_near_is_better(tasks: dict[bool, Task]) -> None:
    result = search(tasks, "zero-order", ZeroOrder(neighbours=3), budget=40 * FULL)
    candidates = result.candidates
    scores = [c.rewards["clip0"] for c in candidates]
    base, moved, began = 0, 0, 0
    position = 1
    while position < len(candidates):
        near = [i for i, c in enumerate(candidates) if c.parent == base]
        assert near == list(range(position, min(position + 3, len(candidates))))
        for i in near:
            assert candidates[i].noises == ((*candidates[base].noises[0], candidates[i].seed),)
        position += len(near)
        best = max([base, *near], key=lambda i: scores[i])
        if best != base:
            base, moved = best, moved + 1
        elif position < len(candidates):
            base, began, position = position, began + 1, position + 1
            assert candidates[base].parent is None
            assert candidates[base].seed == seed_of(7, "p0", began)
    assert moved
    assert began


def test_rejection_is_best_of_n_by_hand(tasks: dict[bool, Task]) -> None:
    result = search(tasks, "rejection")
    seeds = [seed_of(7, "p0", i) for i in range(7)]
    images, scores = plain(tasks[True], seeds)
    assert [c.seed for c in result.candidates] == seeds
    assert result.winner == int(scores.argmax())
    assert [c.rewards["clip0"] for c in result.candidates] == pytest.approx(scores, abs=1e-5)
    assert images_close(result.image, images[result.winner])


def test_random_rounds_and_climbing_nowhere_are_best_of_n(tasks: dict[bool, Task]) -> None:
    best = search(tasks, "best-of-n")
    rounds = search(tasks, "random")
    alone = search(tasks, "zero-order", ZeroOrder(neighbours=0))
    assert [r.num_noises for r in rounds.rounds] == [2, 4, 1]
    for other in (rounds, alone):
        assert other.seed == best.seed
        assert other.score == pytest.approx(best.score, abs=1e-5)
        assert [c.seed for c in other.candidates] == [c.seed for c in best.candidates]


def test_one_beam_of_one_noise_is_a_plain_run(tasks: dict[bool, Task]) -> None:
    result = search(tasks, "beam", Beam(beams=1, noises=1), budget=FULL)
    images, scores = plain(tasks[True], [seed_of(7, "p0", 0)])
    assert images_close(result.image, images[0])
    assert result.score == pytest.approx(scores[0], abs=1e-5)
    assert (result.nfe, result.scored) == (STEPS, 1)


def test_a_beam_keeps_the_best_branches(tasks: dict[bool, Task]) -> None:
    # 2 evaluations before the first noise, 2 x 3 after each of 3, all of these looked at.
    budget = 2 + 3 * 6 * (1 + COSTS.verify)
    result = search(tasks, "beam", Beam(beams=2, noises=3), budget=budget)
    assert result.spent == pytest.approx(budget)
    assert (result.nfe, result.scored) == (20, 18)
    for step in range(1, LAST):
        looked = {i: c.scores[step] for i, c in enumerate(result.candidates) if step in c.scores}
        assert len(looked) == 6
        kept = sorted(looked, key=lambda i: -looked[i])[:2]
        pruned = {i for i in looked if result.candidates[i].pruned_at == step}
        assert pruned == set(looked) - set(kept)
        following = [c for c in result.candidates if step + 1 in c.scores]
        assert all(c.parent in kept for c in following if step not in c.scores)


def test_a_beam_looks_where_it_is_told(tasks: dict[bool, Task]) -> None:
    result = search(tasks, "beam", Beam(beams=1, noises=2, steps=[2]), budget=2 + 4 * (1 + 0.375))
    assert result.nfe == 2 + 4
    assert {step for c in result.candidates for step in c.scores} == {2, 3}
    with pytest.raises(UserError, match="method beam: steps: 3 is no step from 1 to 2"):
        search(tasks, "beam", Beam(steps=[3]))


@pytest.mark.parametrize("name", ["beam", "noise-zero-order", "eps-greedy"])
def test_looks_ahead_are_planned_as_the_previews_that_they_are(
    tasks: dict[bool, Task], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is that of one search; were looks priced as decodes, it would be too little."""
    sampler, costs = tasks[True].sampler, replace(COSTS, preview=0.01)
    monkeypatch.setattr(sampler, "previewer", tiny_previewer(sampler))
    # Beam: 1 of step 0, then 2 each of steps 1 to 3; the others: 1, then 1 + 2 x 2.
    options, each = (Beam(beams=1, noises=2), 2) if name == "beam" else (OPTIONS[name], 5)
    budget = 1 + each * (LAST + 2 * costs.check + costs.verify)
    result = search(tasks, name, options, costs=costs, budget=budget)
    assert (result.nfe, result.scored) == (1 + each * LAST, each * LAST)
    assert result.spent == pytest.approx(result.planned) == budget
    assert result.decodes == each


def test_a_node_is_worth_the_mean_of_its_rollouts(tasks: dict[bool, Task]) -> None:
    options = Mcts(noises=2, simulations=6, exploration=0.5)
    run = Run(replace(tasks[True], budget=100 * FULL), "mcts", options)
    tree = Tree(run, options)
    for _ in range(6):
        assert tree.simulate()

    def check(node: Node) -> list[int]:
        """The finished candidates of the nodes below, which must be those backed up."""
        below = [i for child in node.children for i in check(child)]
        own = [i for i in node.rollouts if i not in below]
        assert len(own) == (0 if node is tree.root else 1)
        assert sorted(node.rollouts) == sorted(own + below)
        mean = np.mean([run.candidates[i].rewards["clip0"] for i in node.rollouts])
        raw = np.array([c.rewards.get("clip0", np.nan) for c in run.candidates])
        assert node.value(raw) == pytest.approx(mean)
        return node.rollouts

    assert len(check(tree.root)) == 12
    assert max(len(child.rollouts) for child in tree.root.children) > 1  # it did go deeper
    scores = tree.scores()
    values = [child.value(scores) for child in tree.root.children]
    best = tree.root.children[int(np.argmax(values))]
    tree.move()
    assert tree.root is best


def test_mcts_goes_where_the_bound_is_highest(tasks: dict[bool, Task]) -> None:
    options = Mcts(noises=2, exploration=0.0)
    run = Run(replace(tasks[True], budget=100 * FULL), "mcts", options)
    tree = Tree(run, options)
    tree.simulate()
    first, second = (run.candidates[c.rollouts[0]].rewards["clip0"] for c in tree.root.children)
    tree.simulate()
    grown = [bool(child.children) for child in tree.root.children]
    assert grown == [first > second, second > first]


def test_without_strength_particles_are_best_of_n(tasks: dict[bool, Task]) -> None:
    looks = 2 * COSTS.verify  # at steps 1 and 2
    steered = search(tasks, "smc", Smc(strength=0.0), budget=5 * (FULL + looks))
    plain = search(tasks, "rejection", budget=5 * FULL)
    assert steered.spent == pytest.approx(steered.budget)
    assert [c.seed for c in steered.candidates] == [c.seed for c in plain.candidates]
    assert all(c.pruned_at is None for c in steered.candidates)
    assert steered.winner == plain.winner
    assert images_close(steered.image, plain.image)


def test_particles_follow_their_weights(tasks: dict[bool, Task]) -> None:
    result = search(tasks, "smc", Smc(strength=50.0, steps=[1], potential="max"))
    looked = {i: c.scores[1] for i, c in enumerate(result.candidates) if 1 in c.scores}
    best = max(looked, key=lambda i: looked[i])
    branches = [c for c in result.candidates if c.parent is not None]
    assert branches
    assert all(c.parent == best for c in branches)
    assert len({c.noises for c in branches}) == len(branches)
    assert all(c.noises[:2] == result.candidates[best].noises[:2] for c in branches)
    assert result.candidates[best].pruned_at is None


def test_systematic_resampling() -> None:
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    drawn = [systematic(weights, 10, offset).tolist() for offset in np.linspace(0.05, 0.95, 7)]
    assert all(d == [0] * 5 + [2] * 3 + [3] * 2 for d in drawn)
    assert systematic(np.full(7, 1 / 7), 7, 0.3).tolist() == list(range(7))
    counts = [systematic(np.array([0.5, 0.5]), 1, offset)[0] for offset in (0.2, 0.8)]
    assert counts == [0, 1]


def test_greed_without_epsilon_is_zero_order(tasks: dict[bool, Task]) -> None:
    greedy = search(tasks, "eps-greedy", EpsGreedy(noises=2, iterations=2, epsilon=0.0))
    climbing = search(tasks, "noise-zero-order")
    assert [c.noises for c in greedy.candidates] == [c.noises for c in climbing.candidates]
    np.testing.assert_array_equal(greedy.image, climbing.image)
    exploring = search(tasks, "eps-greedy", EpsGreedy(noises=2, iterations=2, epsilon=1.0))
    assert all(len(recipe) == 1 for c in exploring.candidates for recipe in c.noises)
    assert any(len(recipe) > 1 for c in climbing.candidates for recipe in c.noises)


def test_no_better_noise_is_given_up(tasks: dict[bool, Task]) -> None:
    """The estimate one step ahead is at least as good as with the noise that was there first."""
    budget = 1 + LAST * 9 * (1 + COSTS.verify)
    climbed = search(tasks, "noise-zero-order", NoiseZeroOrder(iterations=2), budget=budget)
    assert climbed.spent == pytest.approx(budget)
    assert climbed.nfe == 1 + LAST * 9
    looked = search(tasks, "smc", Smc(strength=0.0, steps=[1]), budget=FULL + COSTS.verify)
    assert climbed.candidates[0].scores[1] >= looked.candidates[0].scores[1] - 1e-6


def test_a_small_budget_gets_a_smaller_search(tasks: dict[bool, Task]) -> None:
    result = search(tasks, "eps-greedy", EpsGreedy(), budget=FULL)
    assert (result.nfe, result.scored) == (STEPS, 1)
    result = search(tasks, "eps-greedy", EpsGreedy(), budget=1 + LAST * 5 * 1.375)
    assert result.nfe == 1 + LAST * 5  # one iteration of the four noises
    result = search(tasks, "beam", Beam(), budget=1 + LAST * 2 * 1.375)
    assert result.nfe == 1 + LAST * 2  # one beam of two noises


def test_refinement_climbs_from_the_best_survivor(tasks: dict[bool, Task]) -> None:
    options = Refinement(schedule="1:0.5", neighbours=2, share=0.5)
    result = search(tasks, "ttsnap+zero-order", options, budget=12 * FULL)
    pruning = run_method(
        "ttsnap", replace(tasks[False], budget=6 * FULL), Pruning(schedule="1:0.5")
    )
    n = len(pruning.candidates)
    assert [c.seed for c in result.candidates[:n]] == [c.seed for c in pruning.candidates]
    assert result.rounds[0].best == pruning.winner
    assert result.candidates[n].parent == pruning.winner
    assert result.candidates[n].origin == f"neighbour of {pruning.winner}"
    assert result.score >= pruning.score


@pytest.mark.parametrize("name", METHODS)
def test_the_wrong_kind_of_scheduler_is_refused(tasks: dict[bool, Task], name: str) -> None:
    wrong = tasks[not METHODS[name].needs_stochastic]
    needs = "stochastic" if METHODS[name].needs_stochastic else "deterministic"
    with pytest.raises(UserError, match=f"method {name.replace('+', '.')}: .*{needs} scheduler"):
        run_method(name, wrong, OPTIONS[name])


def test_an_unknown_method_is_refused(tasks: dict[bool, Task]) -> None:
    with pytest.raises(UserError, match="method 'best': expected one of best-of-n, ttsnap"):
        run_method("best", tasks[False])


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_can_be_all_that_counts(tasks: dict[bool, Task], name: str) -> None:
    costs = CostModel(denoise=1, decode=0, reward=0, steps=STEPS, unit="NFE")
    result = search(tasks, name, costs=costs, budget=30)
    assert 30 - STEPS < result.spent == result.nfe <= 30
    assert result.unit == "NFE"


@pytest.mark.parametrize("name", METHODS)
def test_seconds_are_planned_by_what_they_buy(tasks: dict[bool, Task], name: str) -> None:
    # Prices are far too low, as on a machine that is slower than it was thought to be.
    costs = CostModel(denoise=1e-4, decode=1e-5, reward=1e-5, steps=STEPS, unit="seconds")
    result = search(tasks, name, costs=costs, budget=0.3, batch_size=4)
    assert result.spent == pytest.approx(result.seconds, abs=0.05)
    assert len(result.candidates) < 0.3 / costs.cost(1)
    assert result.score == max(c.rewards["clip0"] for c in result.candidates if c.rewards)


def test_moves_keep_to_their_distance(samplers: dict[bool, Sampler]) -> None:
    base, moved = NoiseSource(samplers[False], sphere(0.9))([(1,), (1, 2)])
    assert float(moved.norm()) == pytest.approx(float(base.norm()), rel=1e-5)
    cosine = (base * moved).sum() / base.norm() ** 2
    assert float(cosine) == pytest.approx(0.9, abs=1e-5)
    draw = NoiseSource(samplers[False], ball(0.15))
    apart = [float((draw([(1, seed)]) - base).norm()) for seed in range(50)]
    assert 0 < min(apart) < max(apart) < 0.15 * base.numel() ** 0.5
    assert max(apart) > 0.13 * base.numel() ** 0.5
    np.testing.assert_array_equal(
        draw([(1, 2, 3)]), NoiseSource(samplers[False], ball(0.15))([(1, 2, 3)])
    )


def test_an_interruption_says_where(tasks: dict[bool, Task]) -> None:
    run = Run(
        replace(tasks[False], cancelled=lambda: True), "best-of-n", METHODS["best-of-n"].options()
    )
    with pytest.raises(Interrupted) as caught:
        run.reach(run.start(2), LAST)
    assert len(caught.value.group) == 2
    assert run.meter.evaluations == 0


def test_rewards_are_rewards() -> None:
    assert isinstance(Failing(0.0), Reward)
