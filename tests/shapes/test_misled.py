"""Pictures whose captions are wrong in part, and that each fault is the one that it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ttsnap.shapes import oracle, world
from ttsnap.shapes.misled import FAULTS, mislead
from ttsnap.shapes.renderings import Renderings

WRONG = {
    "relation": {"relation"},
    "colors": {"first_color", "second_color"},
    "color": {"first_color", "second_color"},
    "sizes": {"first_size", "second_size"},
    "missing": {"count"},
    "extra": {"count"},
}
"""Fault -> parts of which the oracle misses at least one."""


def pictures(fault: str, count: int = 60) -> tuple[world.Images, list[str]]:
    rng = np.random.default_rng(0)
    layouts, backgrounds, captions = [], [], []
    while len(captions) < count:
        scene = world.sample_training_scene(rng)
        try:
            said, placed = mislead(scene, fault, rng)
        except ValueError:
            continue
        layouts.append(placed)
        backgrounds.append(scene.background)
        captions.append(said.caption)
    return world.draw(layouts, backgrounds, rng), captions


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_what_it_says(fault: str) -> None:
    images, captions = pictures(fault)
    table = oracle.judge(images, captions)
    assert not table.satisfied.any()
    # Two things that are alike but for their colours can be taken for each other.
    assert (~table[sorted(WRONG[fault])].all(axis=1)).mean() > 0.8
    assert table.background.all()
    assert not any(map(world.held_out, captions))


def test_every_third_rendering_is_misled() -> None:
    data = Renderings.sample(300, seed=3, faults=["relation"])
    assert data.misled.sum() == 100
    table = oracle.judge(data.images, data.captions)
    assert table[~data.misled].satisfied.mean() > 0.98
    assert table[data.misled].satisfied.mean() < 0.02
    again = Renderings.sample(300, seed=3, faults=["relation"])
    np.testing.assert_array_equal(data.images, again.images)
    assert data.captions == again.captions


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--fault", "blur", "--fault blur: must be one of relation, colors"),
        ("--device", "abacus", "--device abacus is not usable"),
    ],
)
def test_bad_options_are_named(option: str, value: str, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ttsnap", "shapes", "train", option, value]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert not [*tmp_path.iterdir()]
