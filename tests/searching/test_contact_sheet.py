from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import area, blue, read
from tests.searches import generator
from ttsnap.searching import Candidate, SearchResult
from ttsnap.searching.contact_sheet import contact_sheet


def result(method: str, candidates: list[Candidate]) -> SearchResult:
    """A search whose first candidate wins."""
    return SearchResult(
        method=method,
        prompt="a prompt",
        negative_prompt="",
        generator=generator(),
        model="tiny",
        rewards=("clip",),
        options={},
        budget=1.0,
        planned=1.0,
        spent=1.0,
        unit="TFLOPs",
        nfe=1,
        decodes=1,
        scored=1,
        seconds=1.0,
        interrupted=False,
        winner=0,
        image=np.zeros((8, 8, 3), np.uint8),
        candidates=candidates,
        rounds=[],
        finals={},
    )


def seen(candidate: Candidate, step: int, tint: tuple[int, int, int], score: float = 1.0) -> None:
    candidate.scores[step] = score
    candidate.thumbnails[step] = np.full((8, 8, 3), tint, np.uint8)


def pruning(n: int, fates: list[tuple[int, int]]) -> list[Candidate]:
    """Candidates with looks (step, survivors); number i is the i-th best."""
    candidates = [Candidate(seed) for seed in range(n)]
    alive = n
    for step, kept in fates:
        for i, candidate in enumerate(candidates[:alive]):
            seen(candidate, step, (10 + i, 200, step), 20 - i / 10)
            if step == fates[-1][0]:
                candidate.rewards["clip"] = candidate.scores[step]
            elif i >= kept:
                candidate.pruned_at = step
        alive = kept
    return candidates


def test_a_contact_sheet_shows_every_look_of_every_candidate(tmp_path: Path) -> None:
    found = result("ttsnap", pruning(12, [(2, 5), (4, 2), (11, 1)]))
    contact_sheet(found, tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    survived = [(10 + i, 200, 2) for i in range(5)] + [(10 + i, 200, 4) for i in range(2)]
    survived += [(10, 200, 11), (11, 200, 11)]
    one = area(pixels, survived[1])
    assert one > 1000
    assert all(area(pixels, tint) > 0.8 * one for tint in survived)  # the winner is framed
    # Those pruned at a look are pale there, and absent later.
    gone = [(10 + i, 200, 2) for i in range(5, 12)] + [(12, 200, 4), (12, 200, 11)]
    assert all(area(pixels, tint) == 0 for tint in gone)
    assert area(pixels, blue()) > 0


@pytest.mark.parametrize("n", [1, 2, 9, 300])
def test_a_search_without_checks_is_an_array(tmp_path: Path, n: int) -> None:
    contact_sheet(result("best-of-n", pruning(n, [(11, 1)])), tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    assert area(pixels, (10, 200, 11)) > 1000
    assert pixels.shape[0] < 4000


def test_a_branch_that_finished_begins_with_the_looks_of_its_parent(tmp_path: Path) -> None:
    trunk, winner, dropped = Candidate(0, pruned_at=2), Candidate(1, 1), Candidate(2, 1)
    seen(trunk, 1, (200, 10, 1))
    seen(trunk, 2, (200, 10, 2))
    seen(winner, 2, (10, 200, 2), 2.0)
    seen(winner, 3, (10, 200, 3), 3.0)
    seen(dropped, 2, (10, 10, 200), 0.5)
    winner.rewards["clip"], winner.parent, dropped.parent, dropped.pruned_at = 3.0, 1, 1, 2
    contact_sheet(result("beam", [winner, trunk, dropped]), tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    one = area(pixels, (10, 200, 2))
    assert one > 1000
    # The look before the branch stands once; where a candidate was dropped it is pale.
    assert area(pixels, (200, 10, 1)) == pytest.approx(one, rel=0.1)
    assert area(pixels, (200, 10, 2)) == area(pixels, (10, 10, 200)) == 0


def test_a_candidate_that_could_not_be_scored_is_shown(tmp_path: Path) -> None:
    candidates = pruning(3, [(11, 1)])
    candidates[2].scores[11] = candidates[2].rewards["clip"] = float("nan")
    contact_sheet(result("best-of-n", candidates), tmp_path / "a.png")
    assert area(read(tmp_path / "a.png"), (12, 200, 11)) > 1000


def test_what_was_dropped_is_pale_on_the_same_background(tmp_path: Path) -> None:
    candidates = pruning(2, [(2, 1), (11, 1)])
    candidates[1].thumbnails[2][:4], candidates[1].thumbnails[2][4:] = 0, (200, 0, 0)
    contact_sheet(result("ttsp", candidates), tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    assert area(pixels, (0, 0, 0)) > 1000
    assert area(pixels, (200, 0, 0)) == 0
    assert area(pixels, (95, 45, 45)) > 1000


@pytest.mark.parametrize("checks", [1, 3, 11])
def test_a_large_search_fits_a_screen(tmp_path: Path, checks: int) -> None:
    fates = [(step, 60 - 4 * step) for step in range(checks)] + [(11, 1)]
    contact_sheet(result("ttsnap", pruning(60, fates)), tmp_path / "a.png")
    height, width, _ = read(tmp_path / "a.png").shape
    assert max(height, width) <= 1500


def test_a_climb_shows_a_row_for_each_start(tmp_path: Path) -> None:
    """0 -> 1 and 2, then 1 -> 3, which wins; 4 stands alone."""
    candidates = [Candidate(seed) for seed in range(5)]
    for i, score in enumerate((1.0, 2.0, 0.5, 3.0, 0.1)):
        seen(candidates[i], 11, (10 + i, 200, 11), score)
        candidates[i].rewards["clip"] = score
    candidates[1].parent = candidates[2].parent = 0
    candidates[3].parent = 1
    found = replace(result("zero-order", candidates), winner=3)
    contact_sheet(found, tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    spots = [np.argwhere(np.all(pixels == (10 + i, 200, 11), axis=2))[:, 0] for i in range(5)]
    assert len(spots[1]) > 1.8 * len(spots[2])  # where it was tried, and where 3 was
    assert spots[0].mean() == spots[2].mean()
    assert spots[0].max() < spots[3].min()
    assert spots[3].max() < spots[4].min()
