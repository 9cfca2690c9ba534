"""Blocks are generated as the sampler makes them, whatever kills the job on its way."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_stable_diffusion
from ttsnap import config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler, State
from ttsnap.errors import UserError
from ttsnap.generate import cut, generate_block
from ttsnap.prompts import Prompt, seed_of, step_seed
from ttsnap.store.files import Place
from ttsnap.store.receipts import block_receipt, read_receipt, write_receipt
from ttsnap.store.trajectories import (
    TrajectoryStore,
    create_store,
    open_store,
    parts_folder,
    store_receipt,
)
from ttsnap.store.verify import verify

STEPS = [0, 2, 3]
PROMPTS = [Prompt(f"p{i}", f"a red {word}", "blue", i) for i, word in enumerate("abcdefgh")]
BLOCK = 3
IMAGES = 2
BATCH = 4

# The children of these forks have one thread of their own and start the rest anew.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return from_pipeline(tiny_stable_diffusion(), config.Sampling(steps=4, guidance_scale=3.0))


def lay_out(
    sampler: Sampler,
    where: Place,
    receipts: Path,
    settings: str = "tiny",
    latents: tuple[int, ...] | None = None,
) -> TrajectoryStore:
    store = create_store(
        where,
        prompts=PROMPTS,
        seeds=np.array([[seed_of(0, p.id, i) for i in range(IMAGES)] for p in PROMPTS]),
        steps=STEPS,
        sigmas=sampler.sigmas[STEPS],
        height=32,
        width=32,
        block=BLOCK,
        settings={"model": settings},
        latents=latents,
        receipts=receipts,
    )
    write_receipt(receipts / "init.json", store_receipt(store))
    return store


def make_store(sampler: Sampler, folder: Path) -> TrajectoryStore:
    return lay_out(sampler, folder / "val.zarr", folder / "val")


def generate(sampler: Sampler, store: TrajectoryStore, block: int, batch: int = BATCH) -> None:
    receipt = block_receipt(store.path.with_suffix(""), block)
    generate_block(sampler, store, block, receipt=receipt, batch_size=batch)


def generate_all(sampler: Sampler, folder: Path) -> TrajectoryStore:
    store = make_store(sampler, folder)
    for block in range(store.blocks):
        generate(sampler, store, block)
    return store


@pytest.fixture(scope="module")
def reference(sampler: Sampler, tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """A store that nothing interrupted."""
    return generate_all(sampler, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def narrow(sampler: Sampler, tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    """Block 2 in batches of one prompt, uninterrupted."""
    store = make_store(sampler, tmp_path_factory.mktemp("narrow"))
    generate(sampler, store, 2, batch=2)
    return store


def content(store: TrajectoryStore, blocks: list[int]) -> dict[str, bytes]:
    return {s: (store.path / s).read_bytes() for b in blocks for s in store.shards(b)}


def identity(paths: list[Path]) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def forked(work: Callable[[], object], life: float = math.inf) -> bool:
    """Run ``work`` in a fork, killed after ``life`` seconds of CPU time; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            born = time.process_time()

            def watch() -> None:
                while time.process_time() - born < life:
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGKILL)

            threading.Thread(target=watch, daemon=True).start()
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize(
    ("prompts", "images", "batch", "sizes"),
    [
        (5, 2, 4, [2, 4, 4]),
        (4, 8, 16, [16, 16]),
        (3, 4, 100, [12]),
        (2, 5, 2, [1, 2, 2, 1, 2, 2]),
        (2, 3, 1, [1] * 6),
    ],
)
def test_cut(prompts: int, images: int, batch: int, sizes: list[int]) -> None:
    batches = cut(prompts, images, batch)
    assert [len(b) for b in batches] == sizes
    assert len({b.name for b in batches}) == len(batches)
    pairs = [(p, i) for b in batches for p in b.prompts for i in b.images]
    assert pairs == [(p, i) for p in range(prompts) for i in range(images)]


@pytest.mark.parametrize("noisy", [False, True])
def test_images_and_latents_are_what_the_sampler_makes(
    noisy: bool, sampler: Sampler, tmp_path: Path
) -> None:
    sampler = sampler.with_noise() if noisy else sampler
    size = sampler.latent_size()
    store = lay_out(sampler, tmp_path / "val.zarr", tmp_path / "val", latents=size)
    generate(sampler, store, 1, batch=2)  # a batch is a prompt here
    for position, prompt in enumerate(PROMPTS[BLOCK : 2 * BLOCK], start=BLOCK):
        seeds = store.seeds[position].tolist()
        state = sampler.start(sampler.encode([prompt.text], [prompt.negative]), seeds)
        frames, latents = [], []
        while not state.done:
            noise = sampler.noise([step_seed(seed, state.index) for seed in seeds])
            state, estimate = sampler.step(state, noise if noisy else None)
            frames.append(sampler.decode(estimate))
            latents.append(estimate.half().numpy())
        expected = np.stack([frames[step] for step in STEPS], axis=1)
        np.testing.assert_array_equal(store.trajectory(position), expected)
        for step in STEPS:
            kept = store.latents_of(slice(position, position + 1), step)
            np.testing.assert_array_equal(kept[0], latents[step])
    assert store.trajectory(BLOCK).std() > 1


@pytest.mark.parametrize("batch", [1, 100])
def test_batch_size_does_not_matter(
    sampler: Sampler, reference: TrajectoryStore, tmp_path: Path, batch: int
) -> None:
    store = make_store(sampler, tmp_path)
    generate(sampler, store, 2, batch=batch)
    difference = store.images([6, 7]).astype(int) - reference.images([6, 7])
    assert np.abs(difference).max() <= 1


def test_receipt_tells_what_was_made(reference: TrajectoryStore) -> None:
    receipt = read_receipt(block_receipt(reference.path.with_suffix(""), 2))
    assert receipt["kind"] == "trajectories"
    assert receipt["prompt_ids"] == ["p6", "p7"]
    assert receipt["trajectories_generated"] == 4
    assert receipt["seconds"] > 0
    assert {"torch", "diffusers", "zarr", "python"} <= set(receipt["versions"])
    assert verify(reference.path, reference.path.with_suffix("")) == []


def test_finished_jobs_leave_no_parts(reference: TrajectoryStore) -> None:
    (folder,) = parts_folder(reference.path.with_suffix("")).iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [f"block_000{b}.json" for b in range(3)]


def test_twenty_kills_at_random_moments(
    sampler: Sampler,
    reference: TrajectoryStore,
    tmp_path: Path,
    inject: Callable[[str], None],
) -> None:
    born = time.process_time()
    generate_all(sampler, tmp_path / "timed")
    lives = np.random.default_rng(0).uniform(0, 0.9 * (time.process_time() - born), 100)
    whole = content(reference, [0, 1, 2])
    moments = []
    kills = run = 0
    while kills < 20:
        folder = tmp_path / f"run{run}"
        finished = [b for b in range(3) if block_receipt(folder / "val", b).is_file()]
        kept = [block_receipt(folder / "val", block) for block in finished]
        kept += [folder / "val.zarr" / s for block in finished for s in reference.shards(block)]
        before = identity(kept)
        moments.append((len(finished), len(list(folder.rglob("p*.npz")))))
        if forked(partial(generate_all, sampler, folder), lives[len(moments)]):
            kills += 1
        else:  # The run was complete before it was killed: on to another one.
            assert content(open_store(folder / "val.zarr"), [0, 1, 2]) == whole
            run += 1
        assert identity(kept) == before
    inject(f"{kills} kills; (finished blocks, parts) before each attempt: {moments}")
    assert any(blocks for blocks, _ in moments)
    assert any(parts for _, parts in moments)
    store = generate_all(sampler, tmp_path / f"run{run}")
    assert content(store, [0, 1, 2]) == whole
    assert verify(store.path, store.path.with_suffix("")) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", range(5))
def test_kill_at_every_file(
    sampler: Sampler, narrow: TrajectoryStore, tmp_path: Path, nth: int, after: bool
) -> None:
    """Files appear by renames: two parts, the shard, the record, the receipt."""
    store = make_store(sampler, tmp_path)
    receipt = block_receipt(tmp_path / "val", 2)

    def die_at_rename() -> None:
        rename, count = Path.replace, iter(range(100))

        def replace(self: Path, target: str | os.PathLike[str]) -> Path:
            last = next(count) == nth
            if not last or after:
                rename(self, target)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return Path(target)

        Path.replace = replace  # type: ignore[method-assign, assignment]
        generate(sampler, store, 2, batch=2)

    assert forked(die_at_rename)
    parts = list(parts_folder(tmp_path / "val").rglob("*.npz"))
    assert len(parts) == min(nth + after, 2)
    assert receipt.is_file() == (nth == 4 and after)
    if nth + after < 3:
        with pytest.raises(UserError, match="block 2 is not generated yet"):
            store.images([6])
    before = identity(list(receipt.parent.glob("block*")))
    generate(sampler, store, 2, batch=2)
    assert identity(list(before)) == before
    assert content(store, [2]) == content(narrow, [2])
    generated = 2 * (2 - len(parts)) if nth + after < 4 else 4
    assert read_receipt(receipt)["trajectories_generated"] == generated
    assert not list(tmp_path.rglob("p*.npz"))
    assert not list(store.path.rglob("*.partial"))


def test_a_lost_receipt_costs_nothing(sampler: Sampler, tmp_path: Path) -> None:
    store = make_store(sampler, tmp_path)
    generate(sampler, store, 2)
    receipt = block_receipt(tmp_path / "val", 2)
    text = receipt.read_text()
    receipt.unlink()
    shards = [store.path / shard for shard in store.shards(2)]
    before = identity(shards)
    generate(sampler, store, 2)
    assert identity(shards) == before
    assert receipt.read_text() == text


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_shard_is_made_anew(
    sampler: Sampler, reference: TrajectoryStore, tmp_path: Path, harm: str
) -> None:
    store = make_store(sampler, tmp_path)
    generate(sampler, store, 2)
    shard = store.path / store.shards(2)[0]
    whole = shard.read_bytes()
    if harm == "flip":
        shard.write_bytes(whole[:50] + bytes([whole[50] ^ 4]) + whole[51:])
    elif harm == "truncate":
        shard.write_bytes(whole[:50])
    else:
        shard.unlink()
    block_receipt(tmp_path / "val", 2).unlink()
    generate(sampler, store, 2)
    assert content(store, [2]) == content(reference, [2])
    assert [p.block for p in verify(store.path, tmp_path / "val")] == [0, 1]


def test_damaged_parts_are_made_anew(
    sampler: Sampler, reference: TrajectoryStore, tmp_path: Path
) -> None:
    store = make_store(sampler, tmp_path)
    batches = cut(BLOCK, IMAGES, BATCH)
    folder = parts_folder(tmp_path / "val") / store.fingerprint[:16] / "block_0000"
    folder.mkdir(parents=True)
    for batch in batches:
        (folder / batch.name).write_bytes(b"PK\x03\x04 half a file")
    generate(sampler, store, 0)
    assert content(store, [0]) == content(reference, [0])


def test_parts_of_other_settings_are_never_taken(
    sampler: Sampler, reference: TrajectoryStore, tmp_path: Path
) -> None:
    store = make_store(sampler, tmp_path)
    fields = np.zeros((2, IMAGES, 32, 32, 3), np.uint8)
    for batch in cut(BLOCK, IMAGES, BATCH):
        stale = parts_folder(tmp_path / "val") / ("0" * 16) / "block_0000" / batch.name
        stale.parent.mkdir(parents=True, exist_ok=True)
        np.savez(stale, *[fields[: len(batch.prompts)]] * len(STEPS))
    generate(sampler, store, 0)
    assert content(store, [0]) == content(reference, [0])


def test_a_store_made_for_another_sampler_is_refused(sampler: Sampler, tmp_path: Path) -> None:
    store = make_store(sampler, tmp_path)
    for steps in (5, 3):
        other = from_pipeline(sampler.pipe, config.Sampling(steps=steps))
        with pytest.raises(UserError, match="made for another sampler"):
            generate(other, store, 0)


@pytest.mark.parametrize("aside", [True, False])
def test_decodes_overlap_with_denoising_unless_parts_are_offloaded(
    aside: bool, sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, denoising = threading.Event(), threading.Event()
    overlapped: list[bool] = []

    def step(state: State, noise: None) -> tuple[State, torch.Tensor]:
        if state.index:
            assert decoding.wait(timeout=60)
            denoising.set()
        return type(sampler).step(sampler, state, noise)

    def preview(estimate: torch.Tensor) -> np.ndarray:
        decoding.set()
        overlapped.append(denoising.wait(timeout=60 if aside else 0.2))
        return type(sampler).preview(sampler, estimate)

    with monkeypatch.context() as patch:
        for name, value in (("step", step), ("preview", preview), ("decodes_aside", aside)):
            patch.setattr(sampler, name, value, raising=False)
        generate(sampler, make_store(sampler, tmp_path), 2)
    assert overlapped[0] == aside


def test_a_decode_that_memory_does_not_hold_is_made_in_pieces(
    sampler: Sampler,
    narrow: TrajectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    steps: list[int] = []

    def preview(estimate: torch.Tensor) -> np.ndarray:
        assert not any(one() is not None for one in held)
        if len(estimate) > 2:  # of a batch of 4
            held.append(weakref.ref(estimate))
            raise torch.OutOfMemoryError("for a test")
        return type(sampler).preview(sampler, estimate)

    def step(state: State, noise: None) -> tuple[State, torch.Tensor]:
        steps.append(state.index)
        return type(sampler).step(sampler, state, noise)

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "step", step, raising=False)
        patch.setattr(sampler, "preview", preview, raising=False)
        store = make_store(sampler, tmp_path)
        generate(sampler, store, 2)
    assert len(held) == 1
    assert steps == [*range(sampler.steps)]  # none taken again
    np.testing.assert_allclose(store.images([6, 7]), narrow.images([6, 7]), atol=1)
