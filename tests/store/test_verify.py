"""A damaged store is told from a whole one, and where."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.stores import IMAGES, make_store, write_block
from ttsnap.store.files import sha256_of
from ttsnap.store.receipts import block_receipt, read_receipt, write_receipt
from ttsnap.store.trajectories import TrajectoryStore, store_receipt
from ttsnap.store.verify import verify


def test_verify_is_content_with_a_whole_store(filled: TrajectoryStore, tmp_path: Path) -> None:
    assert verify(filled.path, tmp_path / "val") == []


def test_verify_names_a_damaged_shard(filled: TrajectoryStore, tmp_path: Path) -> None:
    name = filled.shards(1)[0]
    shard, whole = filled.path / name, (filled.path / name).read_bytes()

    def problems() -> list[str]:
        return [str(problem) for problem in verify(filled.path, tmp_path / "val")]

    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert problems() == [f"block 1: {name}: content differs from its receipt (sha256)"]
    shard.write_bytes(whole[:-7])
    assert problems() == [f"block 1: {name}: {len(whole) - 7} bytes, expected {len(whole)}"]
    shard.unlink()
    assert problems() == [f"block 1: {name}: missing"]
    shard.write_bytes(whole)
    assert problems() == []


def test_verify_decodes(filled: TrajectoryStore, tmp_path: Path) -> None:
    shard = filled.path / filled.shards(2)[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    receipt = read_receipt(block_receipt(tmp_path / "val", 2))
    receipt["shards"][filled.shards(2)[0]]["sha256"] = sha256_of(shard)
    write_receipt(block_receipt(tmp_path / "val", 2), receipt)
    (problem,) = verify(filled.path, tmp_path / "val")
    assert (problem.block, problem.shard) == (2, filled.shards(2)[0])
    assert "does not decode" in problem.what


def test_verify_finds_all_that_does_not_belong(filled: TrajectoryStore, tmp_path: Path) -> None:
    receipts = tmp_path / "val"
    block_receipt(receipts, 0).unlink()
    write_receipt(block_receipt(receipts, 1), {"fingerprint": "other", "block": 1})
    block_receipt(receipts, 2).write_text("{")
    (filled.path / "images/c/9").mkdir()
    (filled.path / "images/c/9/x.partial").touch()
    (filled.path / "notes.txt").touch()
    assert [str(p).replace(str(tmp_path), "") for p in verify(filled.path, receipts)] == [
        "notes.txt: unexpected file",
        f"block 0: {filled.shards(0)[0]}: has no receipt",
        "block 1: /val/block_0001.json: receipt of another store or block",
        "block 2: /val/block_0002.json: not a receipt: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)",
        "images/c/9/x.partial: unexpected file, part of no block",
    ]


def test_verify_tells_unfinished_blocks(tmp_path: Path) -> None:
    store = make_store(tmp_path / "val.zarr")
    write_receipt(tmp_path / "val/init.json", store_receipt(store))
    write_block(store, 1, tmp_path / "val", IMAGES)
    assert [str(problem) for problem in verify(store.path, tmp_path / "val")] == [
        "block 0: not generated yet",
        "block 2: not generated yet",
    ]


def test_verify_checks_metadata_and_coordinates(filled: TrajectoryStore, tmp_path: Path) -> None:
    def problems() -> list[str]:
        return [str(problem) for problem in verify(filled.path, tmp_path / "val")]

    metadata = filled.path / "zarr.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"guidance_scale": 3.5', '"guidance_scale": 4.5'))
    seeds = filled.path / "seeds/c/0/0"
    seeds.rename(tmp_path / "seeds")
    changed = f"{filled.path}: damaged: attributes, seeds, sigmas or steps were changed"
    assert problems() == [
        "seeds/c/0/0: missing",
        "zarr.json: metadata differs from what the init job wrote",
        changed,
    ]
    metadata.write_text(text)
    assert problems() == ["seeds/c/0/0: missing", changed]
    (tmp_path / "seeds").rename(seeds)
    (tmp_path / "val/init.json").unlink()
    assert problems() == [f"{tmp_path}/val/init.json: no receipt here"]
    shutil.rmtree(filled.path)
    assert problems()[1:] == [f"{filled.path}: no store here, expected ttsnap.trajectories"]
