"""Stores keep what they are given, know what they are, and tell when they are damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ttsnap.errors import UserError
from ttsnap.prompts import Prompt
from ttsnap.store import trajectories as stores
from ttsnap.store.trajectories import (
    RewardTensor,
    TrajectoryStore,
    block_receipt,
    create_store,
    open_store,
    parts_folder,
    read_receipt,
    read_table,
    reward_matrix,
    reward_table,
    store_receipt,
    verify,
    write_receipt,
    write_table,
)

PROMPTS = [
    Prompt(f"p{i}", text, "", i)
    for i, text in enumerate(["a cat 🐈", 'a "quoted" / slashed\nprompt', "x" * 1000, "dog", "owl"])
]
SEEDS = np.random.default_rng(0).integers(0, 2**63, (5, 3))
STEPS = [1, 4, 7]
SIGMAS = np.array([9.5, 1.1, 0], np.float32)
BLOCK = 2


def make_store(path: Path, **changes: object) -> TrajectoryStore:
    arguments: dict[str, object] = {
        "prompts": PROMPTS,
        "seeds": SEEDS,
        "steps": STEPS,
        "sigmas": SIGMAS,
        "height": 8,
        "width": 12,
        "block": BLOCK,
        "settings": {"model": {"path": "tiny", "revision": None}, "guidance_scale": 3.5},
    }
    create_store(path, **(arguments | changes))  # type: ignore[arg-type]
    return open_store(path)


IMAGES = np.random.default_rng(1).integers(0, 256, (5, 3, 3, 8, 12, 3), dtype=np.uint8)


def fill(store: TrajectoryStore, receipts: Path, images: np.ndarray = IMAGES) -> None:
    write_receipt(receipts / "init.json", store_receipt(store))
    for block in range(store.blocks):
        write_block(store, block, receipts, images)


def write_block(store: TrajectoryStore, block: int, receipts: Path, images: np.ndarray) -> None:
    prompts = store.block_prompts(block)
    fields = store.write_block(block, lambda s: images[prompts.start : prompts.stop, :, s])
    write_receipt(block_receipt(receipts, block), fields)


@pytest.fixture
def filled(tmp_path: Path) -> TrajectoryStore:
    store = make_store(tmp_path / "val.zarr")
    fill(store, tmp_path / "val")
    return store


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


def test_reading_what_is_not_there(filled: TrajectoryStore) -> None:
    with pytest.raises(UserError, match=r"step 2 is not stored, only \[1, 4, 7\]"):
        filled.images(step=2)
    (filled.path / filled.shards(1)[0]).unlink()
    assert filled.images([0, 1, 4]).shape[0] == 3
    for read in (lambda: filled.images([3]), filled.images, lambda: filled.trajectory(2)):
        with pytest.raises(UserError, match="block 1 is not generated yet"):
            read()


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
    receipt["shards"][filled.shards(2)[0]]["sha256"] = stores.sha256_of(shard)
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


def test_receipts(tmp_path: Path) -> None:
    path = tmp_path / "deep/block_0000.json"
    write_receipt(path, {"kind": "test", "text": "🐈", "seconds": 1.5})
    receipt = read_receipt(path)
    assert receipt["text"] == "🐈"
    assert {"python", "numpy", "zarr"} <= set(receipt["versions"])
    assert [p.name for p in path.parent.iterdir()] == ["block_0000.json"]
    with pytest.raises(TypeError):
        write_receipt(path, {"kind": object()})
    assert read_receipt(path) == receipt
    path.write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object"):
        read_receipt(path)
    with pytest.raises(UserError, match=r"none\.json: no receipt here"):
        read_receipt(tmp_path / "none.json")


def tensor() -> RewardTensor:
    values = np.random.default_rng(2).normal(size=(5, 3, 3)).astype(np.float32)
    values[:, :, 1] = np.nan
    attrs = {"reward": "clip", "kind": "finetuned", "split": "val"}
    return RewardTensor(values, STEPS, [p.id for p in PROMPTS], SEEDS, attrs)


def test_reward_tensor_round_trip(tmp_path: Path) -> None:
    saved = tensor()
    for _ in range(2):
        saved.save(tmp_path / "val.finetuned.zarr")
    loaded = RewardTensor.load(tmp_path / "val.finetuned.zarr")
    assert loaded.values.dtype == np.float32
    np.testing.assert_array_equal(loaded.values, saved.values)
    np.testing.assert_array_equal(loaded.seeds, SEEDS)
    assert (loaded.steps, loaded.prompt_ids, loaded.attrs) == (
        *(saved.steps, saved.prompt_ids, saved.attrs),
    )
    np.testing.assert_array_equal(loaded.at(7), saved.values[:, :, 2])
    with pytest.raises(UserError, match="no rewards at step 3"):
        loaded.at(3)
    metadata = json.loads((tmp_path / "val.finetuned.zarr/values/zarr.json").read_text())
    assert metadata["dimension_names"] == ["prompt", "image", "step"]
    assert [p.name for p in tmp_path.iterdir()] == ["val.finetuned.zarr"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reward_tensor_refuses_stray_values(bad: float) -> None:
    values = tensor().values.copy()
    values[2, 1, 2] = bad
    with pytest.raises(ValueError, match="step 7 are neither all finite nor all NaN"):
        RewardTensor(values, STEPS, [p.id for p in PROMPTS], SEEDS)


def test_reward_tensor_refuses_shapes_that_do_not_fit() -> None:
    good = tensor()
    with pytest.raises(ValueError, match="do not fit"):
        RewardTensor(good.values, [1, 4], good.prompt_ids, good.seeds)
    with pytest.raises(ValueError, match="4 prompt ids"):
        RewardTensor(good.values, STEPS, good.prompt_ids[:4], good.seeds)
    with pytest.raises(ValueError, match="float64"):
        RewardTensor(good.values.astype(float), STEPS, good.prompt_ids, good.seeds)


def test_table_values_are_exact(tmp_path: Path) -> None:
    rewards = np.random.default_rng(3).integers(0, 2**32, (5, 3), dtype=np.uint32)
    rewards = (rewards & 0xBFFFFFFF).view(np.float32)  # any bits but those of huge numbers and NaN
    seeds = SEEDS.copy()
    seeds[0] = [2**63 - 1, 0, -1]
    table = reward_table([p.id for p in PROMPTS], seeds, rewards)
    write_table(tmp_path / "val.parquet", table)
    back = read_table(tmp_path / "val.parquet")
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    assert list(back.dtypes.astype(str)) == ["str", "int64", "int64", "float32"]
    order = ["p3", "p0"]
    np.testing.assert_array_equal(reward_matrix(back, order), rewards[[3, 0]])
    shuffled = back.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(reward_matrix(shuffled, ["p1"]), rewards[[1]])
    np.testing.assert_array_equal(back["seed"].to_numpy().reshape(5, 3), seeds)


def test_bad_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    with pytest.raises(UserError, match="no table here"):
        read_table(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"val\.parquet: not a Parquet table"):
        read_table(path)
    table = reward_table(["a", "b"], SEEDS[:2], np.zeros((2, 3), np.float32))
    write_table(path, table.astype({"reward": "float64"}))
    with pytest.raises(UserError, match="a column reward of type float32"):
        read_table(path)
    with pytest.raises(UserError, match="prompt b lacks rewards"):
        reward_matrix(table.iloc[:5], ["a", "b"])
    with pytest.raises(UserError, match="two rewards"):
        reward_matrix(pd.concat([table, table]), ["a", "b"])
