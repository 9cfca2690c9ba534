"""A store survives the way out to a tree of PNG files and back; bad trees are refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttsnap.errors import UserError
from ttsnap.prompts import Prompt, load_prompts
from ttsnap.store.folders import export_folders, import_folders
from ttsnap.store.trajectories import TrajectoryStore, create_store, open_store
from ttsnap.store.verify import verify

PROMPTS = [
    Prompt("a", 'cat 🐈 / "quoted"\nline', "ugly", 0),
    Prompt("b", "dog", "", 1),
    Prompt("c", "owl", "", 2),
]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 6, 9, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    create_store(
        tmp_path / "val.zarr",
        prompts=PROMPTS,
        seeds=np.arange(6).reshape(3, 2),
        steps=[3, 11],
        sigmas=np.ones(2, np.float32),
        height=6,
        width=9,
        block=2,
        settings={},
    )
    store = open_store(tmp_path / "val.zarr")
    store.write_block(0, lambda s: IMAGES[:2, :, s])
    store.write_block(1, lambda s: IMAGES[2:, :, s])
    return store


@pytest.fixture
def tree(store: TrajectoryStore, tmp_path: Path) -> Path:
    assert export_folders(store.path, tmp_path / "tree") == 12
    return tmp_path / "tree"


def take(tree: Path, prompts: list[Prompt] = PROMPTS) -> int:
    folder = tree.parent / "imported"
    return import_folders(tree, folder / "val.zarr", prompts, receipts=folder / "val", block=2)


def test_tree_is_laid_out_like_the_published_one(tree: Path) -> None:
    files = sorted(str(p.relative_to(tree)) for p in tree.rglob("*.png"))
    assert files[:5] == [
        "p0000/id000/s03.png",
        "p0000/id000/s11.png",
        "p0000/id001/s03.png",
        "p0000/id001/s11.png",
        "p0001/id000/s03.png",
    ]
    assert len(files) == 12
    pixels = np.asarray(Image.open(tree / "p0002/id001/s11.png"))
    np.testing.assert_array_equal(pixels, IMAGES[2, 1, 1])


def test_round_trip(tree: Path) -> None:
    assert take(tree, load_prompts(tree / "prompts.json")) == 12
    store = open_store(tree.parent / "imported/val.zarr")
    assert store.prompts == PROMPTS
    assert store.steps == [3, 11]
    np.testing.assert_array_equal(np.asarray(store.array[:]), IMAGES)
    assert (store.seeds == -1).all()
    assert np.isnan(store.sigmas).all()
    assert verify(store.path, tree.parent / "imported/val") == []


def test_export_needs_a_whole_store_and_an_empty_folder(store: TrajectoryStore) -> None:
    out = store.path.parent / "out"
    shutil.rmtree(store.path / "images/c/1")
    with pytest.raises(UserError, match="block 1 is not generated yet"):
        export_folders(store.path, out)
    with pytest.raises(UserError, match="out: exists and is not an empty folder"):
        export_folders(store.path, out)


def test_import_replaces_nothing(tree: Path) -> None:
    take(tree)
    with pytest.raises(UserError, match=r"val\.zarr: exists"):
        take(tree)


def blank(path: Path, mode: str = "RGB", size: tuple[int, int] = (9, 6)) -> None:
    Image.new(mode, size).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: (t / "p0001/id001/s03.png").unlink(), r"p0001/id001/s03\.png: missing"),
        (lambda t: blank(t / "p0002/id000/s05.png"), r"p0002/id000/s05\.png: p0000/id000 has no"),
        (lambda t: shutil.rmtree(t / "p0001/id000"), "p0001/id000: missing"),
        (lambda t: shutil.rmtree(t / "p0001/id001"), "p0001: 1 folders id000, id001, …, but p0000"),
        (lambda t: shutil.rmtree(t / "p0001"), "p0001: missing"),
        (lambda t: shutil.rmtree(t / "p0002"), "2 folders p0000, p0001, …, but 3 prompts"),
        (lambda t: (t / "p0003").mkdir(), "4 folders p0000, p0001, …, but 3 prompts"),
        (lambda t: (t / "p0002").rename(t / "p2"), "p0002: missing"),
        (lambda t: shutil.rmtree(t), "tree: no such folder"),
        (
            lambda t: [p.unlink() for p in (t / "p0001/id000").iterdir()],
            r"p0001/id000: no images s00\.png",
        ),
        (
            lambda t: blank(t / "p0001/id000/s11.png", size=(9, 7)),
            r"p0001/id000/s11\.png: 9x7 pixels, the first image has 9x6",
        ),
        (lambda t: blank(t / "p0002/id001/s03.png", "RGBA"), r"s03\.png: mode RGBA"),
        (lambda t: blank(t / "p0000/id000/s03.png", "L"), r"p0000/id000/s03\.png: mode L"),
        (
            lambda t: (t / "p0002/id000/s03.png").write_bytes(b"\x89PNG"),
            r"p0002/id000/s03\.png: not a readable PNG",
        ),
        (
            lambda t: (t / "p0002/id000/s03.png").write_bytes(
                (t / "p0002/id000/s03.png").read_bytes()[:80]
            ),
            r"p0002/id000/s03\.png: not a readable PNG",
        ),
    ],
)
def test_bad_trees_are_refused(tree: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(tree)
    with pytest.raises(UserError, match=message) as caught:
        take(tree)
    assert "\n" not in str(caught.value)
    imported = tree.parent / "imported"
    assert not imported.exists() or not any(imported.iterdir())
