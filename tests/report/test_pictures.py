from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttsnap.report.pictures import contact_sheet, gallery, trajectories
from ttsnap.report.style import BLUE, caption, drawable, scored, signed
from ttsnap.searching import Candidate, SearchResult
from ttsnap.searching.methods import METHODS

PROMPTS = [
    "a small red circle",
    "x",
    'émoji 🦊🏽 $x^2$ /slash\\ "quotes"\n漢字 \u200d عربى ' + "very long " * 99,
    "onewordonly" * 90,
    "W" * 900,
]


def read(path: Path) -> np.ndarray:
    """The pixels, after a check that nothing is cut off at the edges."""
    pixels = np.array(Image.open(path).convert("RGB"))
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert np.all(edge == 255), "something runs over the edge"
    return pixels


def area(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int(np.all(pixels == colour, axis=2).sum())


def blue() -> tuple[int, int, int]:
    red, green, blue = (int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_prompt_can_stand_above(tmp_path: Path, prompt: str) -> None:
    images = np.full((3, 4, 16, 16, 3), 90, np.uint8)
    trajectories(images, [1.0, 3.0, 2.0], [0, 2, 4, 11], prompt, tmp_path / "a.png")
    assert area(read(tmp_path / "a.png"), blue()) > 0


def test_pruned_candidates_are_dimmed_after_their_check(tmp_path: Path) -> None:
    tint = (200, 30, 120)
    images = np.full((2, 5, 24, 32, 3), tint, np.uint8)
    trajectories(images, [1.0, 2.0], range(5), "a", tmp_path / "all.png")
    trajectories(images, [1.0, 2.0], range(5), "a", tmp_path / "pruned.png", pruned_at=[None, 1])
    whole, pruned = (area(read(tmp_path / f"{name}.png"), tint) for name in ("all", "pruned"))
    # Candidate 1 is shown in full at steps 0 and 1, dimmed at 2, 3 and 4: 7 of 10 are left.
    assert pruned / whole == pytest.approx(0.7, abs=0.03)


def result(method: str, candidates: list[Candidate]) -> SearchResult:
    """A search whose first candidate wins."""
    return SearchResult(
        method=method,
        prompt="a prompt",
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
    # Those pruned at a look are dimmed there, and absent later.
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
    # The look before the branch stands in both rows; where a candidate was dropped it is dimmed.
    assert area(pixels, (200, 10, 1)) == pytest.approx(2 * one, rel=0.1)
    assert area(pixels, (200, 10, 2)) == area(pixels, (10, 10, 200)) == 0


def test_a_candidate_that_could_not_be_scored_is_shown(tmp_path: Path) -> None:
    candidates = pruning(3, [(11, 1)])
    candidates[2].scores[11] = candidates[2].rewards["clip"] = float("nan")
    contact_sheet(result("best-of-n", candidates), tmp_path / "a.png")
    assert area(read(tmp_path / "a.png"), (12, 200, 11)) > 1000


@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_gallery_frames_the_best_of_each_prompt(tmp_path: Path, count: int) -> None:
    methods = list(METHODS)[:count]
    tints = [[(10 * j, 200, i) for j in range(count)] for i in (0, 1)]
    images = [[np.full((8, 8, 3), tint, np.uint8) for tint in row] for row in tints]
    scores = np.arange(2 * count).reshape(2, count)
    gallery(images, scores, ["a", PROMPTS[2]], methods, tmp_path / "a.png", subtitle="at 1 TFLOPs")
    pixels = read(tmp_path / "a.png")
    for row in tints:
        sizes = [area(pixels, tint) for tint in row]
        assert min(sizes) > 1000
        assert sizes[-1] == min(sizes)  # the frame takes some of it
    assert area(pixels, blue()) > 0


def test_captions_are_short_and_drawable() -> None:
    assert caption("a  b\nc", 3) == "a b c"
    assert caption("", 3) == ""
    long = caption(PROMPTS[2], 3).splitlines()
    assert len(long) == 2
    assert long[1].endswith("…")
    assert "very" in long[1]
    narrow, wide = ([len(line) for line in caption(c * 900, 3).splitlines()] for c in "iW")
    assert narrow[0] > 2 * wide[0]
    assert len(narrow) == len(wide) == 2
    assert drawable("é漢🦊\u200d$\n") == "é▯▯$ "


def test_signed_numbers() -> None:
    assert [signed(0.1), signed(-0.0766), signed(22.0, 3)] == ["+0.10", "−0.077", "+22.0"]
    assert [scored(value, -20.131) for value in (-20.131, 0.5)] == ["−20.13", "0.50"]
    assert [scored(value, 0.2776) for value in (0.2776, 0.1)] == ["0.2776", "0.1000"]
    assert scored(0.0, 0.0) == "0.000"
