"""Many processes write one store at once, and others read it meanwhile."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_stable_diffusion
from ttsnap import config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.generate import generate_block
from ttsnap.prompts import Prompt, seed_of
from ttsnap.store.receipts import block_receipt, write_receipt
from ttsnap.store.trajectories import (
    TrajectoryStore,
    create_store,
    open_store,
    parts_folder,
    store_receipt,
)

WRITERS = 8
PROMPTS = [Prompt(f"p{i}", f"a red number {i}", "", i) for i in range(2 * WRITERS)]
IMAGES = 3

# The children of these forks have one thread of their own and start the rest anew.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def make_store(sampler: Sampler, run: Path) -> TrajectoryStore:
    path = run / "trajectories/train.zarr"
    create_store(
        path,
        prompts=PROMPTS,
        seeds=np.array([[seed_of(0, p.id, i) for i in range(IMAGES)] for p in PROMPTS]),
        steps=[0, 1, 2],
        sigmas=sampler.sigmas,
        height=32,
        width=32,
        block=1,  # one prompt
        settings={"model": "tiny"},
    )
    store = open_store(path)
    write_receipt(path.with_suffix("") / "init.json", store_receipt(store))
    return store


def generate(sampler: Sampler, path: Path, block: int, batch_size: int = IMAGES) -> None:
    store = open_store(path)
    receipt = block_receipt(path.with_suffix(""), block)
    generate_block(sampler, store, block, receipt=receipt, batch_size=batch_size)


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_eight_writers_and_a_reader(tmp_path: Path, ttsnap: Callable[..., int]) -> None:
    sampler = from_pipeline(tiny_stable_diffusion(), config.Sampling(steps=3))
    alone = make_store(sampler, tmp_path / "alone")
    for block in range(alone.blocks):
        generate(sampler, alone.path, block)
    expected = alone.images()

    together = make_store(sampler, tmp_path / "together")
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(WRITERS)

    def write(writer: int) -> None:
        start.wait()
        for block in range(writer, together.blocks, WRITERS):
            generate(sampler, together.path, block)

    writers = [fork.Process(target=write, args=(writer,)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    reads: Counter[int] = Counter()
    while any(writer.is_alive() for writer in writers):
        there = 0
        for block in range(together.blocks):
            try:
                images = together.images([block])
            except UserError as error:
                if "is not generated yet" not in str(error):
                    raise
            else:
                np.testing.assert_array_equal(images[0], expected[block])
                there += 1
        reads[there] += 1
    print(f"blocks that were there, and how often they were read: {dict(reads)}")
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert set(reads) - {0, together.blocks}, "nothing was read while others wrote"

    assert content(together.path) == content(alone.path)
    assert ttsnap("verify", tmp_path / "together") == 0


def test_two_jobs_generate_the_same_block(
    tmp_path: Path, ttsnap: Callable[..., int], inject: Callable[[str], None]
) -> None:
    """A job outlives its Snakemake, which is started again: the new job begins at any moment."""
    sampler = from_pipeline(tiny_stable_diffusion(), config.Sampling(steps=3))
    alone = make_store(sampler, tmp_path / "alone")
    began = time.perf_counter()
    for block in range(alone.blocks):
        generate(sampler, alone.path, block, batch_size=1)
    duration = (time.perf_counter() - began) / alone.blocks

    together = make_store(sampler, tmp_path / "together")
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(2)

    def write(block: int, delay: float) -> None:
        start.wait()
        time.sleep(delay)
        generate(sampler, together.path, block, batch_size=1)

    ends: Counter[int | None] = Counter()
    for block in range(together.blocks):
        later = 1.2 * duration * block / together.blocks
        jobs = [fork.Process(target=write, args=(block, delay)) for delay in (0, later)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        ends.update(job.exitcode for job in jobs)
    assert ends == {0: 2 * together.blocks}
    assert content(together.path) == content(alone.path)
    assert ttsnap("verify", tmp_path / "together") == 0
    assert not list(parts_folder(together.path.with_suffix("")).rglob("*.npz*"))
    inject(f"{together.blocks} blocks, each by two jobs at once: both ended well, nothing torn")
