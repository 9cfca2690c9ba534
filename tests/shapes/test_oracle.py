"""The oracle against renderings, whose captions are known, and against spoilt ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ttsnap.shapes import oracle, world
from ttsnap.shapes.world import Scene

RNG = np.random.default_rng(3)
SCENES = [world.sample_scene(RNG) for _ in range(300)]
LAYOUTS = [world.arrange(scene, RNG) for scene in SCENES]
GROUNDS = [scene.background for scene in SCENES]
CAPTIONS = [scene.caption for scene in SCENES]
IMAGES = world.draw(LAYOUTS, GROUNDS, RNG)


def swapped(scene: Scene, part: str) -> Scene | None:
    """The scene with one word changed, or nothing if that is no scene of the grammar."""
    words = getattr(world, f"{part.split('_')[-1].upper()}S")
    owner, _, attribute = part.partition("_")
    thing = getattr(scene, owner)
    word = getattr(thing, attribute) if attribute else thing
    new = words[(words.index(word) + 1) % len(words)]
    try:
        return replace(scene, **{owner: replace(thing, **{attribute: new}) if attribute else new})
    except ValueError:
        return None


def test_renderings_satisfy_their_captions() -> None:
    table = oracle.judge(IMAGES, CAPTIONS)
    assert table.satisfied.mean() >= 0.99
    assert (table.satisfied == (table.score == 1)).all()


def test_slight_blur_is_forgiven() -> None:
    blurred = gaussian_filter(IMAGES.astype(np.float32), (0, 0.6, 0.6, 0)).astype(np.uint8)
    assert oracle.judge(blurred, CAPTIONS).satisfied.mean() >= 0.95


@pytest.mark.parametrize("part", oracle.PARTS[:-1])
def test_a_swapped_word_is_noticed(part: str) -> None:
    pairs = [
        (image, scene.caption)
        for image, original in zip(IMAGES, SCENES, strict=True)
        if (scene := swapped(original, part)) is not None
    ]
    images, captions = zip(*pairs, strict=True)
    table = oracle.judge(np.stack(images), captions)
    assert len(table) > 250
    assert not table.satisfied.any()
    assert table[part].mean() <= 0.1


def test_exchanged_things_are_noticed() -> None:
    captions = [replace(s, first=s.second, second=s.first).caption for s in SCENES]
    assert not oracle.judge(IMAGES, captions).satisfied.any()


def test_a_missing_thing_is_noticed() -> None:
    images = world.draw([layout[:1] for layout in LAYOUTS], GROUNDS, np.random.default_rng(0))
    table = oracle.judge(images, CAPTIONS)
    parts = ["second_size", "second_color", "second_shape", "relation", "count"]
    assert not table[parts].any(axis=None)
    assert table[["first_size", "first_color", "first_shape"]].mean(axis=None) >= 0.99


def test_things_on_top_of_each_other_are_noticed() -> None:
    merged = [(a, replace(b, x=a.x, y=a.y)) for a, b in LAYOUTS]
    images = world.draw(merged, GROUNDS, np.random.default_rng(0))
    assert not oracle.judge(images, CAPTIONS).satisfied.any()


def test_strong_blur_takes_the_shapes_away() -> None:
    blurred = gaussian_filter(IMAGES.astype(np.float32), (0, 3, 3, 0)).astype(np.uint8)
    assert oracle.judge(blurred, CAPTIONS).satisfied.mean() <= 0.05


def test_things_are_found_where_they_were_drawn() -> None:
    for reading, layout in zip(oracle.read(IMAGES), LAYOUTS, strict=True):
        for placed in layout:
            near = min(
                np.hypot(seen.x - placed.x, seen.y - placed.y) / placed.radius
                for seen in reading.things
            )
            assert near < 0.3  # the centroid of a triangle lies below its centre


def test_an_empty_picture_has_a_background_only() -> None:
    images = world.draw([[], []], ["white", "black"], np.random.default_rng(0))
    assert [r.background for r in oracle.read(images)] == ["white", "black"]
    assert not any(reading.things for reading in oracle.read(images))


def test_prompts_outside_the_grammar_have_no_verdict() -> None:
    verdicts = oracle.judge_images(IMAGES[:3], [CAPTIONS[0], "a cat", CAPTIONS[3]])
    assert verdicts.dtype == np.float32
    np.testing.assert_array_equal(verdicts, [1, np.nan, 0])


def test_no_caption_no_judgement() -> None:
    with pytest.raises(ValueError, match="a cat"):
        oracle.judge(IMAGES[:1], ["a cat"])
