"""Tensors hold what each reward scores by itself, however many jobs and attempts they took."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.test_generate import forked
from tests.tiny_clip import SIZE, clip_reward, tiny_clip
from ttsnap.config import Lora, Narf, RewardSettings, Runtime, SplitSettings
from ttsnap.errors import UserError
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.prompts import Prompt
from ttsnap.rewards import tensor as scoring
from ttsnap.rewards import verifiers
from ttsnap.rewards.clip import ClipReward
from ttsnap.rewards.tensor import score_step
from ttsnap.stages import tensor
from ttsnap.stages.rewards import Settings
from ttsnap.store.receipts import write_receipt
from ttsnap.store.tensors import RewardTensor
from ttsnap.store.trajectories import create_store, open_store

PROMPTS = [Prompt(f"p{i}", f"a ring, {i}", "", i) for i in range(7)]
IMAGES, BLOCK, STEPS = 3, 2, [0, 2, 3]
BLOCKS = 4  # the last one holds a single prompt

# The children of these forks have one thread of their own and start the rest anew.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward, a store, and receipts of checkpoints of steps 2 and 0."""
    folder = tmp_path_factory.mktemp("tensor")
    tiny_clip(folder / "clip")
    store = create_store(
        folder / "test.zarr",
        prompts=PROMPTS,
        seeds=np.arange(len(PROMPTS) * IMAGES).reshape(-1, IMAGES),
        steps=STEPS,
        sigmas=np.zeros(len(STEPS)),
        height=SIZE,
        width=SIZE,
        block=BLOCK,
        settings={},
    )
    rng = np.random.default_rng(0)
    shape = (len(PROMPTS), IMAGES, len(STEPS), SIZE, SIZE, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    for block in range(store.blocks):
        write(folder, block, images)
    teacher = rng.normal(30, 10, shape[:2]).astype(np.float32)
    data = StepData(images[:, :, :1], (0,), [prompt.text for prompt in PROMPTS], teacher)
    narf = Narf(lora=Lora(rank=2), epochs=4, learning_rate=3e-3)
    start = None
    for step in (2, 0):
        out = folder / f"narf/step_{step:02d}"
        finetune_step(
            clip_reward(folder / "clip"), data, narf, start=start, out=out, seed=step, val_data=data
        )
        write_receipt(out.with_suffix(".json"), {"step": step, "files": {"adapter": str(step)}})
        start = out
    return folder


def write(made: Path, block: int, images: np.ndarray) -> None:
    store = open_store(made / "test.zarr")
    prompts = store.block_prompts(block)
    store.write_block(block, lambda position: images[prompts.start : prompts.stop, :, position])


def score(made: Path, out: Path, *, finetuned: bool, block: int | None = None) -> None:
    """Run the stage."""
    tensor.main(
        settings=Settings(
            reward=RewardSettings(path=str(made / "clip")),
            split=SplitSettings(stop=len(PROMPTS), images=IMAGES, prompts_per_job=BLOCK),
            version=tensor.VERSION,
        ),
        runtime=Runtime(batch_size=2 * IMAGES),
        store=made / "test.zarr",
        reward="clip",
        out=out,
        checkpoint=[made / f"narf/step_{step:02d}.json" for step in (0, 2)] if finetuned else None,
        block=block,
    )


def expected(made: Path, *, finetuned: bool) -> np.ndarray:
    """Scores of rewards that were loaded one by one, each for its step; NaN without one."""
    store = open_store(made / "test.zarr")
    values = np.full((len(PROMPTS), IMAGES, len(STEPS)), np.nan, np.float32)
    for position, step in enumerate(STEPS):
        checkpoint = made / f"narf/step_{step:02d}" if finetuned else None
        if checkpoint is None or checkpoint.is_dir():
            reward = clip_reward(made / "clip", checkpoint=checkpoint)
            values[:, :, position] = score_step(reward, store, step, 2 * IMAGES)
    return values


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rewards that are loaded."""
    names: list[str] = []
    load = verifiers.load_reward

    def counted(*settings: object, name: str, device: str) -> object:
        names.append(name)
        return load(*settings, name=name, device=device)

    monkeypatch.setattr(verifiers, "load_reward", counted)
    return names


@pytest.mark.parametrize("finetuned", [False, True])
def test_a_tensor_holds_what_rewards_loaded_one_by_one_score(
    made: Path, tmp_path: Path, loads: list[str], finetuned: bool
) -> None:
    out = tmp_path / "test.json"
    score(made, out, finetuned=finetuned)
    found = RewardTensor.load(out.with_suffix(".zarr"))
    np.testing.assert_array_equal(found.values, expected(made, finetuned=finetuned))
    assert found.attrs == {"reward": "clip", "kind": "finetuned" if finetuned else "base"}
    assert loads == ["clip"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.json", "test.zarr"]


@pytest.mark.parametrize("finetuned", [False, True])
def test_several_jobs_score_what_one_does(
    made: Path,
    tmp_path: Path,
    loads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    finetuned: bool,
) -> None:
    monkeypatch.setattr(scoring, "IMAGES_PER_JOB", 3 * BLOCK * IMAGES * len(STEPS))
    with pytest.raises(FileNotFoundError):
        score(made, tmp_path / "test.json", finetuned=finetuned)
    for block in (1, 0):
        score(made, tmp_path / f"test/block_000{block}.npy", finetuned=finetuned, block=block)
    assert len(loads) == 2
    score(made, tmp_path / "test.json", finetuned=finetuned)
    assert len(loads) == 2
    found = RewardTensor.load(tmp_path / "test.zarr")
    np.testing.assert_array_equal(found.values, expected(made, finetuned=finetuned))
    assert [np.load(tmp_path / f"test/block_000{n}.npy").shape[0] for n in (0, 1)] == [6, 1]


@pytest.mark.parametrize("nth", [0, 1, 5, 8])
def test_a_killed_job_goes_on_where_it_was(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Of two checkpoints and four blocks; the ninth file is the receipt."""
    out = tmp_path / "test.json"

    def die_at_rename() -> None:
        rename, count = Path.replace, iter(range(100))

        def replace(self: Path, target: str | os.PathLike[str]) -> Path:
            if next(count) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.replace = replace  # type: ignore[method-assign, assignment]
        score(made, out, finetuned=True)

    assert forked(die_at_rename)
    finished = len(list(out.with_suffix(".parts").rglob("block_*.npy")))
    assert finished == nth
    scored = []
    with monkeypatch.context() as patch:
        rows = ClipReward.score

        def counted(self: ClipReward, images: np.ndarray, prompts: list[str]) -> np.ndarray:
            scored.append(len(images))
            return rows(self, images, prompts)

        patch.setattr(ClipReward, "score", counted)
        score(made, out, finetuned=True)
    assert len(scored) == 2 * BLOCKS - finished
    found = RewardTensor.load(out.with_suffix(".zarr"))
    np.testing.assert_array_equal(found.values, expected(made, finetuned=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.json", "test.zarr"]


@pytest.mark.parametrize("change", ["images", "weights", "checkpoint"])
def test_scores_of_what_was_changed_meanwhile_are_not_taken(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A job is interrupted at its last block; something changes before the next attempt."""
    out = tmp_path / "test.json"
    with monkeypatch.context() as patch:
        patch.setattr(RewardTensor, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(made, out, finetuned=True)
    assert len(list(out.with_suffix(".parts").rglob("*.npy"))) == 2 * BLOCKS
    store = open_store(made / "test.zarr")
    if change == "images":
        images = np.asarray(store.array[:])
        write(made, 1, 255 - images)
    elif change == "weights":
        file = made / "clip/model.safetensors"
        weights = load_file(file)
        weights["logit_scale"] += 0.1
        save_file(weights, file, metadata={"format": "pt"})
    else:
        receipt = made / "narf/step_02.json"
        file = receipt.with_suffix("") / "adapter_model.safetensors"
        save_file({name: 2 * one for name, one in load_file(file).items()}, file)
        write_receipt(receipt, {"step": 2, "files": {"adapter": "another"}})
    score(made, out, finetuned=True)
    found = RewardTensor.load(out.with_suffix(".zarr"))
    np.testing.assert_array_equal(found.values, expected(made, finetuned=True))


def test_a_block_that_is_not_generated_is_named(made: Path, tmp_path: Path) -> None:
    store = open_store(made / "test.zarr")
    (shard,) = store.shards(2)
    moved = (store.path / shard).rename(tmp_path / "shard")
    with pytest.raises(UserError, match="block 2 is not generated yet"):
        score(made, tmp_path / "test.json", finetuned=False)
    moved.rename(store.path / shard)
