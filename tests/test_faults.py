"""Faults injected into real jobs: nothing is lost, nothing is redone that was whole.

What was injected and what was left is told below the results of the tests. Kills are in
test_trajectories.py, two controllers in workflow/test_faults.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_generate import content, generate, generate_all, identity
from tests.tiny import tiny_stable_diffusion
from ttsnap import config
from ttsnap.diffusion import from_pipeline, load_sampler
from ttsnap.diffusion.sampler import Sampler
from ttsnap.prompts import Prompt
from ttsnap.stages import run, trajectories
from ttsnap.store.receipts import block_receipt, read_receipt, write_receipt
from ttsnap.store.trajectories import TrajectoryStore, create_store, open_store, store_receipt
from ttsnap.store.verify import verify

SAMPLING = config.Sampling(steps=4, guidance_scale=3.0)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return from_pipeline(tiny_stable_diffusion(), SAMPLING)


def flip(shard: Path, rng: np.random.Generator) -> str:
    """Turn over one bit."""
    data = bytearray(shard.read_bytes())
    place, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[place] ^= 1 << bit
    shard.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def truncate(shard: Path, rng: np.random.Generator) -> str:
    size = int(rng.integers(shard.stat().st_size))
    os.truncate(shard, size)
    return f"cut to {size} bytes"


def delete(shard: Path, rng: np.random.Generator) -> str:
    shard.unlink()
    return "deleted"


def test_damage_is_named_repaired_and_made_anew_alone(
    sampler: Sampler,
    tmp_path: Path,
    ttsnap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    inject: Callable[[str], None],
) -> None:
    store = generate_all(sampler, tmp_path)
    receipts = tmp_path / "val"
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    whole = {path: path.read_bytes() for path in files}
    rng = np.random.default_rng(0)
    for harm in (flip, truncate, delete) * 5:
        block = int(rng.integers(store.blocks))
        shard, receipt = store.path / store.shards(block)[0], block_receipt(receipts, block)
        before = identity([path for path in files if path not in (shard, receipt)])
        did = harm(shard, rng)
        (problem,) = verify(store.path, receipts)
        assert (problem.block, store.path / str(problem.shard)) == (block, shard)
        there = shard.is_file()

        capsys.readouterr()
        assert ttsnap("repair", store.path, "--dry-run") == 0
        assert f"would remove {receipt}" in capsys.readouterr().out
        assert (receipt.is_file(), shard.is_file()) == (True, there)
        assert ttsnap("repair", store.path) == 0
        said = capsys.readouterr().out
        assert (receipt.is_file(), shard.is_file()) == (False, False)
        assert (f"removed {shard}" in said) == there

        missing = [b for b in range(store.blocks) if not block_receipt(receipts, b).is_file()]
        assert missing == [block]
        generate(sampler, store, block)
        # The receipt, too, is what it was, seconds and all: what follows from it is not redone.
        assert {path: path.read_bytes() for path in files} == whole
        assert identity(list(before)) == before
        assert verify(store.path, receipts) == []
        inject(f"block {block}: {did}; repaired, made anew alone, bit-identical")


def test_repair_of_receipts_denoises_nothing(
    sampler: Sampler, tmp_path: Path, ttsnap: Callable[..., int]
) -> None:
    store = generate_all(sampler, tmp_path)
    receipts = tmp_path / "val"
    whole = {path: path.read_bytes() for path in receipts.iterdir()}
    shards = identity([store.path / shard for b in range(3) for shard in store.shards(b)])
    block_receipt(receipts, 0).write_text("{")
    block_receipt(receipts, 1).write_bytes(block_receipt(receipts, 2).read_bytes())
    stray = store.path / "images/c/0/0/0/0/0/0.1f.partial"
    stray.touch()
    assert ttsnap("repair", tmp_path / "val.zarr") == 0
    assert not stray.exists()
    assert sorted(path.name for path in receipts.iterdir()) == ["block_0002.json", "init.json"]
    for block in (0, 1):
        generate(sampler, store, block)
    assert {path: path.read_bytes() for path in receipts.iterdir()} == whole
    assert identity(list(shards)) == shards


def test_repair_tells_what_it_does_not_mend(
    sampler: Sampler,
    tmp_path: Path,
    ttsnap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = generate_all(sampler, tmp_path)
    seeds = store.path / "seeds/c/0/0"
    seeds.unlink()
    before = identity([path for path in tmp_path.rglob("*") if path.is_file()])
    assert ttsnap("repair", store.path) == 1
    assert "not mended by this: seeds/c/0/0: missing" in capsys.readouterr().err
    assert identity([path for path in tmp_path.rglob("*") if path.is_file()]) == before


def test_imported_stores_are_not_repaired(
    sampler: Sampler,
    tmp_path: Path,
    ttsnap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = generate_all(sampler, tmp_path)
    assert ttsnap("export", store.path, tmp_path / "png") == 0
    prompts = tmp_path / "png/prompts.json"
    again = tmp_path / "again.zarr"
    assert ttsnap("import", tmp_path / "png", "--prompts", prompts, "--out", again) == 0
    shard = again / open_store(again).shards(0)[0]
    os.truncate(shard, 9)
    assert ttsnap("repair", again) == 1
    assert "import it again" in capsys.readouterr().err
    assert shard.is_file()


# Jobs as the workflow runs them


def stage(
    monkeypatch: pytest.MonkeyPatch, model: Path, store: TrajectoryStore, block: int, batch: int
) -> int:
    """Run the trajectory stage on a block, in this process; gives its exit status."""
    settings = trajectories.Settings(
        model=config.Model(path=str(model), dtype=store.settings["model"]["dtype"]),
        sampling=SAMPLING,
        split=config.Splits().val,
        prompts="",
        version=1,
    )
    runtime = config.Runtime(batch_size=batch)
    receipt = block_receipt(store.path.with_suffix(""), block)
    arguments = {
        "--settings": settings.model_dump_json(),
        "--runtime": runtime.model_dump_json(),
        "--store": store.path,
        "--block": block,
        "--out": receipt,
    }
    argv = ["stage", *(str(word) for pair in arguments.items() for word in pair)]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        run(trajectories.main)
    except SystemExit as status:
        return int(status.code or 0)
    return 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give a file system of so many KiB; asked again, the same with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    mounted = False

    def resize(kib: int) -> Path:
        nonlocal mounted
        if mounted:
            mount("-o", f"remount,size={kib}k", str(folder))
        else:
            mount("-t", "tmpfs", "-o", f"size={kib}k", "ttsnap-test", str(folder))
            mounted = True
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk"
)
@pytest.mark.parametrize("room", [24, 72, 184])
def test_a_full_disk_is_one_line_and_costs_nothing_finished(
    tmp_path: Path,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inject: Callable[[str], None],
    room: int,
) -> None:
    tiny_stable_diffusion(tmp_path / "generator")
    model = load_sampler(config.Model(path=str(tmp_path / "generator")), SAMPLING, config.Runtime())
    disk = small_disk(4096)
    reference, store = (stage_store(model, folder) for folder in (tmp_path / "whole", disk))
    assert stage(monkeypatch, tmp_path / "generator", reference, 0, 4) == 0
    used = sum(path.stat().st_blocks for path in disk.rglob("*")) // 2
    small_disk(used + room)
    capsys.readouterr()
    assert stage(monkeypatch, tmp_path / "generator", store, 0, 4) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert re.fullmatch(rf"error: {disk}/.*: No space left on device; make room .*", line)
    receipt = block_receipt(disk / "val", 0)
    assert not receipt.exists()
    assert not list(disk.rglob("*.partial"))
    kept = identity(list(disk.rglob("*.npz")))

    small_disk(4096)
    assert stage(monkeypatch, tmp_path / "generator", store, 0, 4) == 0
    assert content(store, [0]) == content(reference, [0])
    generated = read_receipt(receipt)["trajectories_generated"]
    assert generated == 12 - 4 * len(kept)
    assert [problem.block for problem in verify(store.path, disk / "val")] == []
    inject(
        f"disk full after {room} KiB: {len(kept)} of 3 batches kept, {generated} of 12 "
        "trajectories generated when there was room again, bit-identical"
    )


def stage_store(sampler: Sampler, folder: Path, dtype: str = "float32") -> TrajectoryStore:
    """A store of one block: 3 prompts, 4 images."""
    create_store(
        folder / "val.zarr",
        prompts=[Prompt(f"p{i}", f"a {word} thing", "", i) for i, word in enumerate("abc")],
        seeds=np.arange(12).reshape(3, 4),
        steps=[0, 1, 2, 3],
        sigmas=sampler.sigmas,
        height=32,
        width=32,
        block=3,
        settings={"model": {"dtype": dtype}},
    )
    store = open_store(folder / "val.zarr")
    write_receipt(folder / "val/init.json", store_receipt(store))
    return store


FLOAT16_MAX = 65504


@pytest.mark.parametrize(
    ("layers", "step"),
    [
        ({"unet.conv_out": 1e5}, 0),
        ({"unet.conv_out": 1e3, "unet.conv_in": 300}, 1),
        ({"unet.conv_out": 1e3, "unet.conv_in": 100}, 2),
    ],
)
def test_an_overflow_of_the_denoiser_is_caught_at_its_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inject: Callable[[str], None],
    layers: dict[str, float],
    step: int,
) -> None:
    scaled(tmp_path / "generator", layers)
    assert first_beyond_float16(tmp_path / "generator") == step
    message = overflow(tmp_path, monkeypatch, capsys)
    assert message.startswith(
        f"error: the denoiser's output is not finite at step {step} of 4 (torch.float16): try"
    )
    inject(f"float16 overflow at step {step}: caught there, nothing stored")


def test_an_overflow_of_the_decoder_is_caught(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inject: Callable[[str], None],
) -> None:
    scaled(tmp_path / "generator", {"vae.decoder.conv_out": 1e7})
    message = overflow(tmp_path, monkeypatch, capsys)
    assert message.startswith("error: the decoder's output is not finite (torch.float16): try")
    inject("float16 overflow of the decoder: caught, nothing stored")


def scaled(folder: Path, layers: dict[str, float]) -> None:
    """Save the tiny pipeline with the weights of some layers scaled up."""
    pipe = tiny_stable_diffusion()
    for name, factor in layers.items():
        part, layer = name.split(".", 1)
        getattr(pipe, part).get_submodule(layer).weight.data *= factor
    pipe.save_pretrained(folder)


def first_beyond_float16(folder: Path) -> int:
    """The first step at which float32 activations of the U-Net leave the range of float16."""
    sampler = load_sampler(config.Model(path=str(folder)), SAMPLING, config.Runtime())
    beyond = []

    def look(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and float(output.abs().max()) > FLOAT16_MAX:
            beyond.append(state.index)

    for module in sampler.pipe.unet.modules():
        module.register_forward_hook(look)
    state = sampler.start(sampler.encode(["a a thing"], [""]), [0, 1, 2, 3])
    while not state.done:
        state, _ = sampler.step(state)
    return min(beyond)


def overflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run the stage in float16; nothing may be stored, and one line of error remains."""
    model = config.Model(path=str(folder / "generator"), dtype="float16")
    sampler = load_sampler(model, SAMPLING, config.Runtime())
    store = stage_store(sampler, folder, "float16")
    before = identity([path for path in folder.rglob("*") if path.is_file()])
    capsys.readouterr()
    assert stage(monkeypatch, folder / "generator", store, 0, 4) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert identity([path for path in folder.rglob("*") if path.is_file()]) == before
    return line
