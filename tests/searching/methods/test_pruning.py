from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.sampling import tiny_previewer
from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import clip_reward, tiny_clip
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.generate import generate_block
from ttsnap.prompts import Prompt, seed_of
from ttsnap.rewards.clip import ClipReward
from ttsnap.schedule import CostModel, Schedule
from ttsnap.searching import METHODS, Progress, SearchResult
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.output import events
from ttsnap.searching.searcher import Searcher
from ttsnap.simulation.montecarlo import replay
from ttsnap.store.trajectories import create_store, open_store

pytestmark = pytest.mark.filterwarnings(
    # DPM-Solver hands tensors to numpy functions.
    "ignore:__array:DeprecationWarning"
)

STEPS, POOL = 5, 12
SCHEDULE = Schedule.parse("0:0.5,2:0.5")
PROMPT = Prompt("p0", "a red 🔴 circle / ring", "", 0)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    scheduler = Scheduler(name="DPMSolverMultistepScheduler")
    sampling = Sampling(steps=STEPS, guidance_scale=4.0, scheduler=scheduler)
    return from_pipeline(tiny_stable_diffusion(), sampling)


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ClipReward]:
    """A reward for each check, and the one of the final image; each sees images its own way."""
    folder = tmp_path_factory.mktemp("clip")
    return {step: clip_reward(tiny_clip(folder / str(step), step)) for step in (0, 2, 4)}


@dataclass(frozen=True)
class Subject:
    """What is searched with, and for how much."""

    sampler: Sampler
    rewards: dict[int, ClipReward]
    costs: CostModel
    budget: float
    batch_size: int = 64

    def search(self, method: str, **watched: Any) -> SearchResult:
        searcher = Searcher(
            self.sampler,
            [self.rewards[4]],
            verifiers={step: (self.rewards[step],) for step in (0, 2)},
            costs=self.costs,
            batch_size=self.batch_size,
        )
        options = Pruning(schedule=str(SCHEDULE)) if METHODS[method].prunes else None
        budget = Budget(self.budget, self.costs.unit)
        return searcher.run(PROMPT, method, options, budget=budget, seed=7, **watched)


@pytest.fixture
def subject(sampler: Sampler, rewards: dict[int, ClipReward]) -> Subject:
    costs = CostModel(denoise=1.0, decode=0.25, reward=0.125, steps=STEPS)
    return Subject(sampler, rewards, costs, costs.cost(POOL, SCHEDULE))


def survivors(result: SearchResult) -> list[list[int]]:
    """Positions of the candidates that outlived each check."""
    return [
        [
            i
            for i, candidate in enumerate(result.candidates)
            if candidate.pruned_at is None or candidate.pruned_at > check.step
        ]
        for check in Schedule.parse(result.schedule).checks
    ]


@pytest.fixture(scope="module")
def pool(
    sampler: Sampler, rewards: dict[int, ClipReward], tmp_path_factory: pytest.TempPathFactory
) -> tuple[np.ndarray, np.ndarray]:
    """Stored images (n, S, H, W, 3) of the seeds that the search meets; rewards (n, S) of them."""
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
    )
    store = open_store(folder / "test.zarr")
    generate_block(sampler, store, 0, receipt=folder / "block_0000.json", batch_size=64)
    images = store.trajectory(0)
    scores = np.stack(
        [
            rewards.get(step, rewards[4]).score(images[:, step], [PROMPT.text] * POOL)
            for step in range(STEPS)
        ],
        axis=1,
    )
    return images, scores


def test_live_equals_the_replay_of_the_pool(
    subject: Subject, pool: tuple[np.ndarray, np.ndarray]
) -> None:
    images, scores = pool
    expected = replay(scores, scores[:, -1], SCHEDULE)
    result = subject.search("ttsnap")
    assert survivors(result) == [kept.tolist() for kept in expected.survivors]
    assert [len(kept) for kept in survivors(result)] == [6, 3]
    assert result.winner == expected.winner
    np.testing.assert_array_equal(result.image, images[expected.winner, -1])
    assert result.seed == seed_of(7, PROMPT.id, expected.winner)
    assert result.score == pytest.approx(scores[expected.winner, -1])
    # The checks do decide: neither best-of-N nor the first survivors would give the same.
    assert expected.survivors[0].tolist() != list(range(6))
    assert expected.winner != int(scores[:, -1].argmax())


def test_without_verifiers_the_reward_itself_prunes(
    subject: Subject, rewards: dict[int, ClipReward], pool: tuple[np.ndarray, np.ndarray]
) -> None:
    images, _ = pool
    scores = np.stack(
        [rewards[4].score(images[:, step], [PROMPT.text] * POOL) for step in range(STEPS)], axis=1
    )
    result = subject.search("ttsp")
    assert result.method == "ttsp"
    expected = replay(scores, scores[:, -1], SCHEDULE)
    assert survivors(result) == [kept.tolist() for kept in expected.survivors]
    assert result.winner == expected.winner


def test_best_of_n_takes_the_best(subject: Subject, pool: tuple[np.ndarray, np.ndarray]) -> None:
    images, scores = pool
    result = replace(subject, budget=subject.costs.cost(POOL)).search("best-of-n")
    assert len(result.candidates) == POOL
    assert result.winner == int(scores[:, -1].argmax())
    np.testing.assert_array_equal(result.image, images[result.winner, -1])
    assert result.nfe == POOL * STEPS


def test_small_batches_change_nothing(subject: Subject) -> None:
    whole = subject.search("ttsnap")
    parts = replace(subject, batch_size=5).search("ttsnap")
    assert survivors(parts) == survivors(whole)
    assert parts.winner == whole.winner
    assert np.abs(parts.image.astype(int) - whole.image).max() <= 1
    assert parts.spent == whole.spent


def test_the_same_twice(subject: Subject) -> None:
    first, second = (subject.search("ttsnap") for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    seen = [[{**event, "seconds": 0} for event in events(one)] for one in (first, second)]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("budget", [6.2, 11.0, 30.0])
def test_spends_what_was_planned_and_never_more(subject: Subject, budget: float) -> None:
    subject = replace(subject, budget=budget, costs=replace(subject.costs, accounting="ttsnap"))
    for result in (subject.search("ttsnap"), subject.search("best-of-n")):
        n = len(result.candidates)
        schedule = Schedule.parse(result.schedule)
        corrected = replace(subject.costs, accounting="corrected")
        assert result.spent == result.planned == corrected.cost(n, schedule)
        assert result.spent <= budget < corrected.cost(n + 1, schedule)


def test_a_budget_for_nothing_names_the_smallest(subject: Subject) -> None:
    with pytest.raises(UserError, match=r"budget of 5 TFLOPs: one candidate costs 5\.375"):
        replace(subject, budget=5.0).search("best-of-n")
    assert len(replace(subject, budget=5.375).search("best-of-n").candidates) == 1
    thirds = replace(subject.costs, denoise=1 / 3)
    with pytest.raises(UserError, match=r"costs 2\.042, the smallest"):  # 2.041666… rounded up
        replace(subject, budget=2.04, costs=thirds).search("best-of-n")


def test_progress_is_observed(subject: Subject) -> None:
    seen: list[Progress] = []
    result = subject.search("ttsnap", observe=seen.append)
    assert [p.step for p in seen] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [p.alive for p in seen] == [12, 6, 6, 6, 3, 3, 3, 1]
    assert [p.spent for p in seen] == sorted(p.spent for p in seen)
    assert seen[0].best is None
    assert seen[-1].best == result.score
    assert seen[-1].spent == result.spent == seen[-1].budget


def test_checks_see_previews_and_pay_for_them(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = subject.search("ttsnap")
    monkeypatch.setattr(subject.sampler, "previewer", tiny_previewer(subject.sampler))
    costs = replace(subject.costs, preview=0.0)
    result = replace(subject, costs=costs, budget=costs.cost(POOL, SCHEDULE)).search("ttsnap")
    assert result.spent == pytest.approx(result.planned) == costs.cost(POOL, SCHEDULE)
    assert result.decodes == 3  # of those that finish
    first, before = result.candidates[0], full.candidates[0]
    assert not np.array_equal(first.thumbnails[0], before.thumbnails[0])
