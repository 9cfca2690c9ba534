"""Stores in object stores: the same as in folders, through every mishap."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from tests.object_store import s3
from tests.test_generate import BATCH, BLOCK, IMAGES, STEPS, generate_all, lay_out
from tests.tiny import tiny_stable_diffusion
from ttsnap import config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.generate import generate_block
from ttsnap.store.files import Place, files_under, place, remove_tree
from ttsnap.store.receipts import block_receipt, read_receipt
from ttsnap.store.trajectories import TrajectoryStore, open_store, parts_folder
from ttsnap.store.verify import Problem, repair, verify

BLOCKS = 3
SAMPLING = config.Sampling(steps=4, guidance_scale=3.0)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return from_pipeline(tiny_stable_diffusion(), SAMPLING)


@pytest.fixture
def remote(bucket: str) -> Iterator[Place]:
    """Where a store may be made, in what is not a folder."""
    where = place(f"{bucket}/of a test/val.zarr")
    yield where
    remove_tree(where.parent)


def fill(sampler: Sampler, store: TrajectoryStore, receipts: Path, *blocks: int) -> None:
    for block in blocks or range(BLOCKS):
        receipt = block_receipt(receipts, block)
        generate_block(sampler, store, block, receipt=receipt, batch_size=BATCH)


def test_a_store_is_the_same_wherever_it_lies(
    sampler: Sampler, remote: Place, tmp_path: Path
) -> None:
    here = generate_all(sampler, tmp_path / "here")
    there = lay_out(sampler, remote, tmp_path / "val")
    fill(sampler, there, tmp_path / "val")
    assert verify(remote, tmp_path / "val") == []
    assert files_under(remote.parent) == [f"val.zarr/{name}" for name in files_under(here.path)]
    for block in range(BLOCKS):
        receipts = (block_receipt(folder / "val", block) for folder in (tmp_path, here.path.parent))
        one, other = (read_receipt(receipt) for receipt in receipts)
        assert one["shards"] == other["shards"]
    again = open_store(str(remote))
    np.testing.assert_array_equal(again.images(), here.images())
    np.testing.assert_array_equal(again.images([6, 0], STEPS[1]), here.images([6, 0], STEPS[1]))
    np.testing.assert_array_equal(again.trajectory(4), here.trajectory(4))
    assert again.stamp(0) == there.stamp(0)


def test_a_job_goes_on_where_another_stopped(
    sampler: Sampler, remote: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = lay_out(sampler, remote, tmp_path / "val")
    begun: list[object] = []

    def start(*arguments: object) -> object:
        begun.append(arguments)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return type(sampler).start(sampler, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "start", start)
        with pytest.raises(KeyboardInterrupt):
            fill(sampler, store, tmp_path / "val", 0)
    assert len(list(parts_folder(tmp_path / "val").rglob("*.npz"))) == 1
    with pytest.raises(UserError, match="block 0 is not generated yet"):
        store.images([0])
    fill(sampler, store, tmp_path / "val", 0)
    done = read_receipt(block_receipt(tmp_path / "val", 0))
    assert 0 < done["trajectories_generated"] < BLOCK * IMAGES


def test_two_jobs_on_one_block_both_end_well(
    sampler: Sampler, remote: Place, tmp_path: Path
) -> None:
    receipts = tmp_path / "val"
    lay_out(sampler, remote, receipts)
    samplers = [from_pipeline(tiny_stable_diffusion(), SAMPLING) for _ in range(2)]
    start = threading.Barrier(len(samplers))

    def generate(own: Sampler, block: int) -> None:
        store = open_store(remote)
        start.wait()
        fill(own, store, receipts, block)

    with ThreadPoolExecutor(len(samplers)) as pool:
        for block in range(BLOCKS):
            list(pool.map(generate, samplers, [block] * len(samplers)))
    assert verify(remote, receipts) == []
    here = generate_all(sampler, tmp_path / "here")
    assert {name: (remote / name).read_bytes() for name in files_under(remote)} == {
        name: (here.path / name).read_bytes() for name in files_under(here.path)
    }


def flip(shard: Place) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def cut(shard: Place) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def delete(shard: Place) -> None:
    shard.unlink()


@pytest.mark.parametrize("damage", [flip, cut, delete])
@pytest.mark.parametrize("mended", [True, False])
def test_damage_is_named_and_made_anew(
    damage: object, mended: bool, sampler: Sampler, remote: Place, tmp_path: Path
) -> None:
    receipts = tmp_path / "val"
    store = lay_out(sampler, remote, receipts)
    fill(sampler, store, receipts)
    before = {name: (remote / name).read_bytes() for name in files_under(remote)}
    told = block_receipt(receipts, 2).read_bytes()
    (shard,) = store.shards(2)
    damage(remote / shard)  # type: ignore[operator]
    problems = verify(remote, receipts)
    assert [problem.shard for problem in problems] == [shard]
    # Without a repair the job finds the damage by itself, should it ever run.
    if mended:
        for file in repair(remote, receipts, problems).files:
            file.unlink()
    fill(sampler, store, receipts, 2)
    assert {name: (remote / name).read_bytes() for name in files_under(remote)} == before
    assert block_receipt(receipts, 2).read_bytes() == told


def test_what_is_there_is_kept_replaced_or_refused(
    sampler: Sampler, remote: Place, tmp_path: Path
) -> None:
    store = lay_out(sampler, remote, tmp_path / "val")
    fill(sampler, store, tmp_path / "val", 0)
    assert lay_out(sampler, remote, tmp_path / "val").images([0]).any()
    lay_out(sampler, remote, tmp_path / "val", settings="other")
    assert not [name for name in files_under(remote) if name.startswith("images/c/")]
    # As an interrupted call leaves it: no longer a store, and not yet one.
    (remote / "zarr.json").unlink()
    with pytest.raises(UserError, match="no store here"):
        open_store(remote)
    lay_out(sampler, remote, tmp_path / "val")
    (remote / "zarr.json").unlink()
    (remote / "novel.txt").write_bytes(b"dear")
    with pytest.raises(UserError, match=r"no store here, but novel\.txt"):
        lay_out(sampler, remote, tmp_path / "val")
    assert (remote / "novel.txt").read_bytes() == b"dear"


def test_the_store_of_another_run_is_not_replaced(
    sampler: Sampler, remote: Place, tmp_path: Path
) -> None:
    fill(sampler, lay_out(sampler, remote, tmp_path / "val"), tmp_path / "val", 0)
    with pytest.raises(UserError, match="made by another run; set `run` or `stores`"):
        lay_out(sampler, remote, tmp_path / "elsewhere/val", settings="other")
    assert open_store(remote).images([0]).any()


def test_nothing_is_taken_for_missing_that_cannot_be_asked_for(
    sampler: Sampler, tmp_path: Path
) -> None:
    receipts = tmp_path / "val"
    with s3("other") as environment:
        where = UPath(
            "s3://other/val.zarr",
            key="any",
            secret="any",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            config_kwargs={"retries": {"max_attempts": 1}},
            use_listings_cache=False,
        )
        store = lay_out(sampler, where, receipts)
        fill(sampler, store, receipts, 0)
    attempts: list[Callable[[], object]] = [
        lambda: open_store(where),
        lambda: store.images([0]),
        lambda: store.read((slice(0, 1),)),
        lambda: files_under(where),
        lambda: remove_tree(where),
        lambda: lay_out(sampler, where, receipts),
        lambda: fill(sampler, store, receipts, 0),
        lambda: fill(sampler, store, receipts, 1),
        lambda: list(store.damage(read_receipt(block_receipt(receipts, 0)))),
        lambda: repair(where, receipts, [Problem("missing", 0, store.shards(0)[0])]),
    ]
    for attempt in attempts:
        with pytest.raises(UserError, match=r"^s3://other/val\.zarr.*connect"):
            attempt()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("gs://bucket/folder", "gs://bucket/folder: .*gcsfs"),
        ("s3://bucket/all*", r"s3://bucket/all\*: expected s3://"),
        ("s3://bucket//folder", r"s3://bucket//folder: expected s3://"),
        ("s3://me:secret@bucket/folder", r"expected s3://"),
        ("file:///folder", "file:///folder: expected s3://"),
    ],
)
def test_a_url_that_cannot_be_had_is_one_line(url: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        place(url)


def test_what_the_object_store_refuses_is_one_line(bucket: str, sampler: Sampler) -> None:
    where = place("s3://no-such-bucket/val.zarr")
    with pytest.raises(UserError, match=r"^s3://no-such-bucket/val\.zarr.*bucket"):
        lay_out(sampler, where, Path("unused"))
