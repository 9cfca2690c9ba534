"""Live search with NegToMe: groups, whose references outlive their pruning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sampling import with_little_memory
from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import clip_reward, tiny_clip
from ttsnap.config import NegToMe, Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.generate import generate_block
from ttsnap.prompts import Prompt, seed_of
from ttsnap.rewards.clip import ClipReward
from ttsnap.schedule import DRAFT, CostModel, Schedule
from ttsnap.searching import METHODS, SearchResult
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods import MethodOptions
from ttsnap.searching.methods.draft import Drafts
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.methods.ttsnap_zero_order import Refinement
from ttsnap.searching.noise import reproduce
from ttsnap.searching.searcher import Searcher
from ttsnap.store.trajectories import create_store, open_store

STEPS, POOL = 5, 8
SCHEDULE = Schedule.parse("0:0.5,1:0.5")
PROMPT = Prompt("p0", "red", "", 0)
COSTS = CostModel(denoise=1.0, decode=0.25, reward=0.125, steps=STEPS)
BUDGET = COSTS.cost(POOL, SCHEDULE) + 4


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    sampling = Sampling(
        steps=STEPS,
        guidance_scale=4.0,
        scheduler=Scheduler(name="DDIMScheduler"),
        negtome=NegToMe(
            alpha=2.5, threshold=-1.0, t_end=500.0, where="up", min_width=2, group=4, reference=1
        ),
    )
    made = from_pipeline(tiny_stable_diffusion().to(torch.float64), sampling)
    assert made.coupled == [0, 1, 2]
    return made


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> ClipReward:
    return clip_reward(tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def search(sampler: Sampler, reward: ClipReward) -> Callable[..., SearchResult]:
    """Search with references paid for."""

    def run(
        method: str,
        options: MethodOptions | None = None,
        budget: float = BUDGET,
        batch_size: int = 6,
        sampler: Sampler = sampler,
    ) -> SearchResult:
        searcher = Searcher(sampler, [reward], costs=COSTS, batch_size=batch_size)
        return searcher.run(PROMPT, method, options, budget=Budget(budget, "TFLOPs"), seed=7)

    return run


@pytest.fixture(scope="module")
def result(search: Callable[..., SearchResult]) -> SearchResult:
    return search("ttsp", Pruning(schedule=str(SCHEDULE)))


@pytest.fixture(scope="module")
def pool(sampler: Sampler, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Stored final images of the same candidates, generated in batches that split groups."""
    folder = tmp_path_factory.mktemp("pool")
    create_store(
        folder / "test.zarr",
        prompts=[PROMPT],
        seeds=np.array([[seed_of(7, PROMPT.id, i) for i in range(POOL)]]),
        steps=range(STEPS),
        sigmas=sampler.sigmas,
        height=32,
        width=32,
        block=1,
        settings={},
        groups=(4, 1),
    )
    store = open_store(folder / "test.zarr")
    assert (store.group_size, store.group_reference) == (4, 1)
    assert store.reference_seeds[0].tolist() == store.seeds[0, [1] * 4 + [5] * 4].tolist()
    generate_block(sampler, store, 0, receipt=folder / "block_0000.json", batch_size=3)
    return store.images()[0]


def test_the_live_image_is_the_stored_one(result: SearchResult, pool: np.ndarray) -> None:
    assert len(result.candidates) == POOL
    assert np.abs(result.image.astype(int) - pool[result.winner]).max() <= 1


def test_references_that_were_pruned_are_charged_within_the_budget(result: SearchResult) -> None:
    alive = range(POOL)
    extra = 0
    for check in SCHEDULE.checks:
        survivors = [
            i
            for i in alive
            if (pruned := result.candidates[i].pruned_at) is None or pruned > check.step
        ]
        # Both checks are followed by one evaluation in which images depend on references.
        extra += len({i - i % 4 + 1 for i in survivors} - {*survivors})
        alive = survivors
    assert extra > 0
    counts = SCHEDULE.counts(POOL)
    assert result.nfe == sum(n * steps for n, steps in zip(counts, (1, 1, 3), strict=True)) + extra
    assert result.spent <= BUDGET
    assert result.spent <= result.planned


def test_little_memory_changes_neither_groups_nor_what_is_charged(
    result: SearchResult,
    search: Callable[..., SearchResult],
    sampler: Sampler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A piece of a group whose reference is in another runs that reference once more."""
    tried = with_little_memory(sampler, monkeypatch)
    pieces = search("ttsp", Pruning(schedule=str(SCHEDULE)))
    assert max(tried["evaluate"]) > 2 >= tried["evaluate"][-1]
    assert np.abs(pieces.image.astype(int) - result.image).max() <= 1
    assert pieces.winner == result.winner
    assert (pieces.nfe, pieces.decodes) == (result.nfe, result.decodes)


def test_a_candidate_can_be_made_again_from_its_record(
    result: SearchResult, sampler: Sampler
) -> None:
    winner = result.candidates[result.winner]
    assert winner.reference == seed_of(7, PROMPT.id, result.winner - result.winner % 4 + 1)
    texts = sampler.encode([PROMPT.text], [""])
    again = reproduce(sampler, texts, winner.noises, None, winner.reference)
    assert np.abs(again.astype(int) - result.image).max() <= 1


def test_batches_smaller_than_a_group_are_refused(search: Callable[..., SearchResult]) -> None:
    with pytest.raises(UserError, match=r"batches of 3 are smaller than sampling\.negtome\.group"):
        search("best-of-n", batch_size=3)


def test_a_group_without_its_reference_must_be_affordable(
    search: Callable[..., SearchResult],
) -> None:
    with pytest.raises(UserError, match="too little for a candidate and its reference"):
        search("best-of-n", budget=COSTS.cost(1))
    one = search("best-of-n", budget=COSTS.cost(1) + 3)
    assert (len(one.candidates), one.nfe) == (1, STEPS + 3)


def test_rounds_of_random_search_are_groups_of_the_same_seeds(
    search: Callable[..., SearchResult],
) -> None:
    """Rounds of 2, 4, … share groups of 4; whose reference is in another round runs once more."""
    best = search("best-of-n", budget=COSTS.cost(12))
    rounds = search("random", budget=COSTS.cost(12) + 6)
    assert [one.num_noises for one in rounds.rounds] == [2, 4, 6]
    assert [c.reference for c in rounds.candidates] == [c.reference for c in best.candidates]
    scores = [[c.rewards["clip"] for c in one.candidates] for one in (rounds, best)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    # Seeds 2 and 3 need reference 1, and 6 and 7 need 5, at the three steps where it acts.
    assert rounds.nfe == best.nfe + 2 * 3
    assert rounds.planned == pytest.approx(rounds.spent)
    assert len(search("random", budget=COSTS.cost(12) + 5).candidates) == 11


def test_pruning_is_grouped_before_climbing_too(search: Callable[..., SearchResult]) -> None:
    pruned = search("ttsp", Pruning(schedule="1:0.5"), budget=24.0)
    options = Refinement(schedule="1:0.5", neighbours=2, share=0.5)
    result = search("ttsnap+zero-order", options, budget=48.0)
    n = len(pruned.candidates)
    first, climbed = result.candidates[:n], result.candidates[n:]
    assert [c.reference for c in first] == [c.reference for c in pruned.candidates]
    assert [c.scores for c in first] == [c.scores for c in pruned.candidates]
    assert climbed
    assert {c.reference for c in climbed} == {None}
    assert result.spent <= 48


def test_drafts_are_not_grouped_and_full_runs_are(search: Callable[..., SearchResult]) -> None:
    options = Drafts(draft_steps=2, keep=0.5)
    result = search("draft", options, budget=60.0)
    plain = search("best-of-n", budget=60.0)
    count = len(plain.candidates)
    assert [c.reference for c in result.candidates[:count]] == [
        c.reference for c in plain.candidates
    ]
    assert {c.pruned_at for c in result.candidates} == {None, DRAFT}
    assert result.spent <= 60
    finished = {c.seed: c.rewards for c in plain.candidates}
    again = [c for c in result.candidates if c.rewards and c.seed in finished]
    for candidate in again:
        assert candidate.rewards == pytest.approx(finished[candidate.seed], abs=1e-4)
    assert again


def test_where_it_does_not_act_it_is_left_out_with_a_notice(
    search: Callable[..., SearchResult], caplog: pytest.LogCaptureFixture
) -> None:
    acts = {name for name, method in METHODS.items() if method.negtome}
    assert acts == {"best-of-n", "ttsnap", "ttsp", "random", "draft", "ttsnap+zero-order"}
    for name in ("zero-order", "beam"):
        result = search(name, budget=30.0)
        assert {c.reference for c in result.candidates} == {None}
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith("negative token merging is left out")
        caplog.clear()


def test_stores_of_other_groups_are_others(tmp_path: Path) -> None:
    def fingerprint(groups: tuple[int, int] | None) -> str:
        return create_store(
            tmp_path / "test.zarr",
            prompts=[PROMPT],
            seeds=np.array([[1, 2]]),
            steps=[0],
            sigmas=np.array([1.0]),
            height=4,
            width=4,
            block=1,
            settings={},
            groups=groups,
        ).fingerprint

    assert len({fingerprint(None), fingerprint((2, 0)), fingerprint((2, 1))}) == 3
