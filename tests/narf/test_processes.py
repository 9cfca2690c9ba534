"""Processes that `accelerate launch` starts train what one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from tests.tiny_clip import SIZE, clip_reward, tiny_clip
from ttsnap.config import Lora, Narf, Preference, RewardSettings, Runtime
from ttsnap.narf.curriculum import finetune_step
from ttsnap.narf.data import StepData
from ttsnap.prompts import Prompt
from ttsnap.stages.narf import VERSION, Settings
from ttsnap.store.tensors import reward_table, write_table
from ttsnap.store.trajectories import create_store, open_store

ROOT = Path(__file__).parents[2]
PROMPTS = [Prompt(f"p{i}", text, "", i) for i, text in enumerate(["a ring", "two", "red", "-"])]
IMAGES = 9  # of each prompt, which is a group of 8 and one image more
STEP = 3

# Batches of 18, 17 and 1 images: groups are cut, a prompt is at both processes, one has no image.
SETTINGS = Narf(
    steps=[STEP],
    epochs=2,
    batch_size=18,
    learning_rate=3e-3,
    lora=Lora(rank=4),
    preference=Preference(weight=1.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and the stores and rewards of two splits."""
    folder = tmp_path_factory.mktemp("processes")
    base = clip_reward(tiny_clip(folder / "clip"))
    texts = [prompt.text for prompt in PROMPTS for _ in range(IMAGES)]
    rng = np.random.default_rng(0)
    seeds = np.arange(len(PROMPTS) * IMAGES).reshape(len(PROMPTS), IMAGES)
    for split in ("train", "val"):
        path = folder / f"{split}.zarr"
        create_store(
            path,
            prompts=PROMPTS,
            seeds=seeds,
            steps=[STEP],
            sigmas=np.zeros(1),
            height=SIZE,
            width=SIZE,
            block=len(PROMPTS),
            settings={},
        )
        images = rng.integers(0, 256, (*seeds.shape, SIZE, SIZE, 3), dtype=np.uint8)
        open_store(path).write_block(0, lambda position, images=images: images)
        scores = base.score(images.reshape(-1, SIZE, SIZE, 3), texts)
        noise = scores.std() * rng.standard_normal(len(scores), dtype=np.float32)
        rewards = (scores + noise).reshape(seeds.shape)
        table = reward_table([prompt.id for prompt in PROMPTS], seeds, rewards)
        write_table(folder / f"{split}.parquet", table)
    return folder


def in_one_process(folder: Path, out: Path, at_once: int | None = None) -> pd.DataFrame:
    def data(split: str) -> StepData:
        table = pd.read_parquet(folder / f"{split}.parquet")
        teacher = table["reward"].to_numpy().reshape(len(PROMPTS), IMAGES)
        return StepData.from_store(open_store(folder / f"{split}.zarr"), teacher, STEP)

    reward = clip_reward(folder / "clip")
    return finetune_step(
        reward, data("train"), SETTINGS, start=None, out=out, seed=0, val_data=data("val"),
        at_once=at_once,
    )  # fmt: skip


def launch(folder: Path, out: Path, runtime: Runtime, *how: str) -> subprocess.CompletedProcess:
    settings = Settings(
        reward=RewardSettings(path=str(folder / "clip")), narf=SETTINGS, seed=0, version=VERSION
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", "2"]
    command += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "-m", "ttsnap.stages.narf"]
    arguments = {
        "--settings": settings.model_dump_json(),
        "--runtime": runtime.model_dump_json(),
        "--reward": "clip",
        "--step": STEP,
        "--train-store": folder / "train.zarr",
        "--val-store": folder / "val.zarr",
        "--train-rewards": folder / "train.parquet",
        "--val-rewards": folder / "val.parquet",
        "--out": out,
    }
    command += [str(word) for pair in arguments.items() for word in pair]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_parts_of_a_batch_add_up(folder: Path, tmp_path: Path) -> None:
    whole = in_one_process(folder, tmp_path / "whole")
    parts = in_one_process(folder, tmp_path / "parts", at_once=5)
    np.testing.assert_allclose(parts["loss"], whole["loss"], rtol=0, atol=1e-5)
    assert whole["loss"].std() > 0.01


def test_two_processes_have_the_losses_of_one(folder: Path, tmp_path: Path) -> None:
    one = in_one_process(folder, tmp_path / "one")
    runtime = Runtime(processes=2, train_batch=5)
    done = launch(folder, tmp_path / "two.json", runtime, "--multi_gpu")
    assert done.returncode == 0, done.stderr
    two = pd.read_csv(tmp_path / "two/history.csv")
    assert two["loss"].count() == 6
    assert two["loss"].std() > 0.01
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(two["val_mse"], one["val_mse"], rtol=0, atol=1e-4)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weights[1][name], weight, atol=1e-3)
    assert (tmp_path / "two.json").is_file()
    assert done.stderr.count("finetune two 6/6") == 1
    assert done.stderr.count("narf: done in") == 1


def test_processes_that_do_not_join_are_refused(folder: Path, tmp_path: Path) -> None:
    """With --cpu accelerate leaves it to MPI to start more than one process."""
    done = launch(folder, tmp_path / "out.json", Runtime(processes=2), "--cpu")
    assert done.returncode != 0
    assert "error: runtime.processes: 2, but 1 joined on cpu" in done.stderr
    assert not (tmp_path / "out.json").exists()
