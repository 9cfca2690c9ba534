"""Tensors and tables keep their values to the last bit, and refuse what is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.stores import PROMPTS, SEEDS, STEPS
from ttsnap.errors import UserError
from ttsnap.store.tensors import RewardTensor, read_table, reward_matrix, reward_table, write_table


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
