"""The grammar and the renderer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttsnap.shapes import world
from ttsnap.shapes.world import Placed, Scene, Thing

PROMPTS = Path("config/prompts/shapes.json")


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng) for _ in range(count)]


@given(st.integers(0, 2**32))
def test_captions_read_back(seed: int) -> None:
    scene = world.sample_scene(np.random.default_rng(seed))
    assert Scene.parse(scene.caption) == scene


def test_a_caption_in_words() -> None:
    scene = Scene(
        Thing("small", "red", "circle"), "left of", Thing("large", "blue", "ring"), "gray"
    )
    assert scene.caption == ("a small red circle left of a large blue ring on a gray background")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle left of a large blue ring on a gray background",
        "a small red circle left of a large blue ring on a pink background",
        "a small red circle left of a large blue ring on a gray background.",
        "a small red circle left of a large red circle on a gray background",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a caption|two things"):
        Scene.parse(text)


def test_a_fifth_of_the_captions_is_held_out() -> None:
    share = np.mean([world.held_out(scene.caption) for scene in scenes(5000)])
    assert 0.18 < share < 0.22


def test_held_out_captions_never_reach_training() -> None:
    rng = np.random.default_rng(0)
    training = {world.sample_training_scene(rng).caption for _ in range(3000)}
    assert training.isdisjoint(world.held_out_captions(3000, seed=0))


def test_the_prompts_of_the_default_run_are_held_out() -> None:
    prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))
    assert prompts == world.held_out_captions(6000, seed=0)
    assert len(set(prompts)) == 6000
    assert all(map(world.held_out, prompts))


def test_things_keep_their_distance_their_relation_and_the_frame() -> None:
    rng = np.random.default_rng(0)
    for scene in scenes(2000):
        first, second = world.arrange(scene, rng)
        dx, dy = world.DIRECTIONS[scene.relation]
        offset = np.array([first.x - second.x, first.y - second.y])
        along, across = offset @ [dx, dy], offset @ [dy, dx]
        assert along >= first.radius + second.radius + world.GAP - 1e-6
        assert along >= 1.9 * abs(across)
        for placed in (first, second):
            assert placed.radius <= placed.x <= world.RESOLUTION - placed.radius
            assert placed.radius <= placed.y <= world.RESOLUTION - placed.radius


def test_rendering_is_a_function_of_the_seed() -> None:
    some = scenes(50)
    pictures = [world.render(some, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert pictures[0].shape == (50, 32, 32, 3)
    assert pictures[0].dtype == np.uint8
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()


@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_shape_covers_its_middle_or_its_rim(shape: str) -> None:
    mask = world.coverage([shape], np.array([16.0]), np.array([16.0]), np.array([8.0]))[0]
    assert mask[15:17, 15:17].mean() == (0.0 if shape == "ring" else 1.0)
    assert mask[:, :7].max() == mask[:7].max() == 0
    assert mask.max() == 1


def test_later_things_cover_earlier_ones() -> None:
    red, blue = Thing("large", "red", "square"), Thing("small", "blue", "circle")
    layouts = [[Placed(red, 16, 16, 7), Placed(blue, 16, 16, 4)], [Placed(red, 16, 16, 7)], []]
    one, two, none = world.draw(layouts, ["white"] * 3, np.random.default_rng(0))[:, 16, 16]
    assert one.argmax() == 2
    assert two.argmax() == 0
    assert none.min() > 220
