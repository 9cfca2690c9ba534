from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.pictures import PROMPTS, area, blue, read
from ttsnap.report.galleries import gallery, trajectories
from ttsnap.searching.methods import METHODS


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_prompt_can_stand_above(tmp_path: Path, prompt: str) -> None:
    images = np.full((3, 4, 16, 16, 3), 90, np.uint8)
    trajectories(images, [1.0, 3.0, 2.0], [0, 2, 4, 11], prompt, tmp_path / "a.png")
    assert area(read(tmp_path / "a.png"), blue()) > 0


def test_pruned_candidates_are_pale_after_their_check(tmp_path: Path) -> None:
    tint = (200, 30, 120)
    images = np.full((2, 5, 24, 32, 3), tint, np.uint8)
    trajectories(images, [1.0, 2.0], range(5), "a", tmp_path / "all.png")
    trajectories(images, [1.0, 2.0], range(5), "a", tmp_path / "pruned.png", pruned_at=[None, 1])
    whole, pruned = (area(read(tmp_path / f"{name}.png"), tint) for name in ("all", "pruned"))
    # Candidate 1 is shown in full at steps 0 and 1, pale at 2, 3 and 4: 7 of 10 are left.
    assert pruned / whole == pytest.approx(0.7, abs=0.03)


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


def test_those_who_lived_longer_stand_above(tmp_path: Path) -> None:
    images = np.stack([np.full((2, 8, 8, 3), (10 + i, 200, 0), np.uint8) for i in range(3)])
    path = tmp_path / "a.png"
    trajectories(images, [3.0, 1.0, 2.0], [0, 1], "a", path, pruned_at=[0, None, None])
    pixels = read(path)
    rows = [np.argwhere(np.all(pixels == (10 + i, 200, 0), axis=2))[:, 0].mean() for i in range(3)]
    assert rows[2] < rows[1] < rows[0]


def test_ties_are_framed_alike(tmp_path: Path) -> None:
    images = [[np.full((8, 8, 3), (10 * j, 200, 0), np.uint8) for j in range(2)]]
    frames = []
    for name, score in (("a", 1.0), ("b", 0.5)):
        path = tmp_path / f"{name}.png"
        gallery(images, np.array([[1.0, score]]), ["a"], ["x", "y"], path, subtitle="")
        frames.append(area(read(path), blue()))
    assert frames[0] > 1.8 * frames[1]


def test_many_prompts_stand_beside_each_other(tmp_path: Path) -> None:
    images = [[np.zeros((8, 8, 3), np.uint8)] * 2] * 12
    scores, path = np.arange(24).reshape(12, 2), tmp_path / "a.png"
    gallery(images, scores, ["a red circle"] * 12, ["x", "y"], path, subtitle="")
    assert len(read(path)) < 2000
