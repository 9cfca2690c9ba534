"""Stores keep what they are given, know what they are, and replace nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.stores import BLOCK, IMAGES, PROMPTS, SEEDS, SIGMAS, STEPS, fill, make_store
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt
from ttsnap.store import trajectories as stores
from ttsnap.store.receipts import block_receipt, read_receipt, write_receipt
from ttsnap.store.tensors import RewardTensor
from ttsnap.store.trajectories import (
    TrajectoryStore,
    open_store,
    parts_folder,
    store_receipt,
)
from ttsnap.store.verify import verify


def test_store_gives_back_what_it_was_given(filled: TrajectoryStore) -> None:
    store = open_store(filled.path)
    assert [(p.id, p.text, p.negative) for p in store.prompts] == [
        (p.id, p.text, p.negative) for p in PROMPTS
    ]
    assert store.steps == STEPS
    assert store.final == 7
    assert len(store) == 5
    assert store.settings["guidance_scale"] == 3.5
    np.testing.assert_array_equal(store.seeds, SEEDS)
    np.testing.assert_array_equal(store.sigmas, SIGMAS)
    np.testing.assert_array_equal(store.images(), IMAGES[:, :, 2])
    np.testing.assert_array_equal(store.images(slice(1, 4), 4), IMAGES[1:4, :, 1])
    np.testing.assert_array_equal(store.images([4, 0, 4], 1), IMAGES[[4, 0, 4], :, 0])
    assert store.images([], 1).shape == (0, 3, 8, 12, 3)
    np.testing.assert_array_equal(store.trajectory(3), IMAGES[3])
    metadata = json.loads((filled.path / "images/zarr.json").read_text())
    names = ["prompt", "image", "step", "height", "width", "channel"]
    assert metadata["dimension_names"] == names


def test_each_block_is_a_file_of_its_own(filled: TrajectoryStore) -> None:
    files = sorted(p for p in (filled.path / "images/c").rglob("*") if p.is_file())
    assert files == [filled.path / shard for b in range(3) for shard in filled.shards(b)]
    assert len(files) == 3


def test_blocks_too_large_for_a_shard_are_split_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "SHARD_BYTES", 2 * BLOCK * 3 * 8 * 12 * 3)
    monkeypatch.setattr(stores, "CHUNK_BYTES", 8 * 12 * 3)
    store = make_store(tmp_path / "val.zarr")
    fill(store, tmp_path / "val")
    assert len(store.shards(0)) == 2
    assert store.array.chunks == (1, 1, 1, 8, 12, 3)
    np.testing.assert_array_equal(np.asarray(store.array[:]), IMAGES)
    assert verify(store.path, tmp_path / "val") == []


def test_a_damaged_shard_is_written_over_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "SHARD_BYTES", 1)
    store = make_store(tmp_path / "val.zarr")
    fill(store, tmp_path / "val")
    first, second, _ = store.shards(2)
    whole = (store.path / second).read_bytes()
    (store.path / first).unlink()
    (store.path / second).write_bytes(whole[:-9])
    written = store.write_block(2, lambda position: IMAGES[4:, :, position])
    assert written["shards"] == read_receipt(block_receipt(tmp_path / "val", 2))["shards"]
    assert (store.path / second).read_bytes() == whole
    assert verify(store.path, tmp_path / "val") == []


def test_latents_lie_beside_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "SHARD_BYTES", 1)
    latents = np.random.default_rng(2).normal(size=(*IMAGES.shape[:3], 4, 2, 3)).astype(np.float16)
    store = make_store(tmp_path / "val.zarr", latents=(4, 2, 3))
    assert store.fingerprint != make_store(tmp_path / "test.zarr").fingerprint
    write_receipt(tmp_path / "val/init.json", store_receipt(store))
    for block in range(store.blocks):
        some = store.block_prompts(block)
        chosen = slice(some.start, some.stop)
        fields = store.write_block(
            block, lambda s, c=chosen: IMAGES[c, :, s], lambda s, c=chosen: latents[c, :, s]
        )
        write_receipt(block_receipt(tmp_path / "val", block), fields)
    assert len(store.shards(0)) == 2 * len(STEPS)
    np.testing.assert_array_equal(store.images(step=4), IMAGES[:, :, 1])
    np.testing.assert_array_equal(store.latents_of(slice(1, 4), 4), latents[1:4, :, 1])
    assert verify(store.path, tmp_path / "val") == []
    shard = store.path / store.shards(1)[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    (problem,) = verify(store.path, tmp_path / "val")
    assert (problem.block, problem.shard) == (1, store.shards(1)[-1])
    stray = shard.with_name("9")
    stray.touch()
    store.remove_strays(1)
    assert shard.exists()
    assert not stray.exists()
    shard.unlink()
    with pytest.raises(UserError, match="block 1 is not generated yet"):
        store.latents_of(slice(None), 4)


def test_black_images_are_written(tmp_path: Path) -> None:
    make_store(tmp_path / "val.zarr")
    store = open_store(tmp_path / "val.zarr")
    fill(store, tmp_path / "val", np.zeros_like(IMAGES))
    assert verify(store.path, tmp_path / "val") == []
    assert not open_store(store.path).images().any()


def test_init_again_keeps_finished_blocks(filled: TrajectoryStore, tmp_path: Path) -> None:
    (parts_folder(tmp_path / "val") / "some").mkdir(parents=True)

    def files() -> dict[Path, tuple[int, int]]:
        return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in filled.path.rglob("*")}

    before = files()
    make_store(filled.path)
    assert files() == before
    assert (parts_folder(tmp_path / "val") / "some").is_dir()


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"guidance_scale": 4.0}},
        {"seeds": SEEDS + 1},
        {"steps": [1, 5, 7]},
        {"block": 3},
        {"prompts": [*PROMPTS[:4], Prompt("p4", "owls", "", 4)]},
    ],
)
def test_init_with_other_settings_starts_anew(
    filled: TrajectoryStore, change: dict[str, object], tmp_path: Path
) -> None:
    (parts_folder(tmp_path / "val") / "some").mkdir(parents=True)
    store = make_store(filled.path, **change)
    assert store.fingerprint != filled.fingerprint
    with pytest.raises(UserError, match="block 0 is not generated yet"):
        store.images()
    assert sorted(p.name for p in store.path.parent.iterdir()) == ["val", "val.zarr"]


def test_only_trajectory_stores_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_bytes(b"dear")
    with pytest.raises(UserError, match="photos: no store here"):
        make_store(tmp_path / "photos")
    assert (tmp_path / "photos/one.jpg").read_bytes() == b"dear"


def test_unreadable_stores_are_named(filled: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.zarr: no store here, expected ttsnap.trajectories"):
        open_store(tmp_path / "none.zarr")
    rewards = RewardTensor(np.zeros((1, 1, 1), np.float32), [0], ["a"], np.zeros((1, 1), int))
    rewards.save(tmp_path / "rewards.zarr")
    with pytest.raises(UserError, match=r"expected ttsnap\.trajectories, found ttsnap\.rewards"):
        open_store(tmp_path / "rewards.zarr")

    path = filled.path / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"]["version"] = 2
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"version 2 .* reads up to 1"):
        open_store(filled.path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"zarr\.json"):
        open_store(filled.path)
    path.write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(UserError, match="found a Zarr group without a type"):
        open_store(filled.path)


def test_changed_attributes_are_noticed(filled: TrajectoryStore) -> None:
    path = filled.path / "zarr.json"
    path.write_text(path.read_text().replace('"revision": null', '"revision": "main"'))
    with pytest.raises(UserError, match="attributes, seeds, sigmas or steps were changed"):
        open_store(filled.path)


def test_a_missing_array_is_named(filled: TrajectoryStore) -> None:
    (filled.path / "images/zarr.json").unlink()
    with pytest.raises(UserError, match=r"val\.zarr/images: array missing"):
        open_store(filled.path)


def test_a_stamp_tells_that_a_block_was_written_anew(filled: TrajectoryStore) -> None:
    stamps = [filled.stamp(block) for block in range(3)]
    shard = filled.path / filled.shards(1)[0]
    os.utime(shard, (0, 0))
    again = open_store(filled.path)
    assert [again.stamp(block) == stamps[block] for block in range(3)] == [True, False, True]
    shard.unlink()
    with pytest.raises(UserError, match="block 1 is not generated yet"):
        filled.stamp(1)


def test_reading_what_is_not_there(filled: TrajectoryStore) -> None:
    with pytest.raises(UserError, match=r"step 2 is not stored, only \[1, 4, 7\]"):
        filled.images(step=2)
    (filled.path / filled.shards(1)[0]).unlink()
    assert filled.images([0, 1, 4]).shape[0] == 3
    for read in (lambda: filled.images([3]), filled.images, lambda: filled.trajectory(2)):
        with pytest.raises(UserError, match="block 1 is not generated yet"):
            read()
