"""Many processes write one store at once, and others read it meanwhile."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_stable_diffusion
from ttsnap import cli, config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.prompts import Prompt, seed_of
from ttsnap.store import (
    TrajectoryStore,
    block_receipt,
    create_store,
    open_store,
    store_receipt,
    write_receipt,
)
from ttsnap.trajectories import generate_block

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
        block=2,
        settings={"model": "tiny"},
    )
    store = open_store(path, writable=True)
    write_receipt(path.with_suffix("") / "init.json", store_receipt(store))
    return store


def generate(sampler: Sampler, path: Path, block: int) -> None:
    store = open_store(path, writable=True)
    receipt = block_receipt(path.with_suffix(""), block)
    generate_block(sampler, store, block, receipt=receipt, batch_size=IMAGES)


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_eight_writers_and_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = from_pipeline(tiny_stable_diffusion(), config.Sampling(steps=3))
    alone = make_store(sampler, tmp_path / "alone")
    for block in range(WRITERS):
        generate(sampler, alone.path, block)
    expected = alone.images()

    together = make_store(sampler, tmp_path / "together")
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(WRITERS)

    def write(block: int) -> None:
        start.wait()
        generate(sampler, together.path, block)

    writers = [fork.Process(target=write, args=(block,)) for block in range(WRITERS)]
    for writer in writers:
        writer.start()
    seen: Counter[int] = Counter()
    while any(writer.is_alive() for writer in writers):
        whole = 0
        for prompt in range(len(PROMPTS)):
            try:
                images = open_store(together.path).images([prompt])
            except UserError as error:
                assert f"block {prompt // 2} is not generated yet" in str(error)
            else:
                np.testing.assert_array_equal(images[0], expected[prompt])
                whole += 1
        seen[whole] += 1
    print(f"prompts there, and how often they were so many: {dict(seen)}")
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert set(seen) - {0, len(PROMPTS)}, "nothing was read while others wrote"

    assert content(together.path) == content(alone.path)
    monkeypatch.setattr(sys, "argv", ["ttsnap", "verify", str(tmp_path / "together")])
    cli.main()
