"""Rewards on disk: tensors over all steps in Zarr, and tidy tables of final images in Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsnap.errors import UserError
from ttsnap.store.files import atomic, atomic_folder
from ttsnap.store.groups import VERSION, open_array, open_group, write_arrays

if TYPE_CHECKING:
    import pandas as pd

REWARDS = "ttsnap.rewards"
TABLE_COLUMNS = {"prompt_id": "str", "image_id": "int64", "seed": "int64", "reward": "float32"}


@dataclass(frozen=True, eq=False)
class RewardTensor:
    """Rewards of all stored trajectories at all scored steps.

    Attributes:
        values: (prompt, image, step) float32. A step without a checkpoint is NaN throughout;
            nothing else is NaN or infinite.
        steps: step indices of the last axis.
        prompt_ids: of the first axis.
        seeds: (prompt, image) int64.
        attrs: JSON types; by custom reward, kind (base or finetuned) and split.
    """

    values: np.ndarray
    steps: list[int]
    prompt_ids: list[str]
    seeds: np.ndarray
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32:
            raise ValueError(f"rewards must be float32, not {self.values.dtype}")
        if self.values.shape != (*self.seeds.shape, len(self.steps)):
            raise ValueError(f"rewards {self.values.shape} do not fit seeds and steps")
        if len(self.prompt_ids) != len(self.values):
            raise ValueError(f"{len(self.prompt_ids)} prompt ids, {len(self.values)} prompts")
        finite = np.isfinite(self.values).reshape(-1, len(self.steps))
        absent = np.isnan(self.values).reshape(-1, len(self.steps))
        for step, bad in zip(self.steps, ~(finite.all(0) | absent.all(0)), strict=True):
            if bad:
                raise ValueError(f"rewards at step {step} are neither all finite nor all NaN")

    def at(self, step: int) -> np.ndarray:
        """Rewards (prompt, image) at a step index."""
        if step not in self.steps:
            raise UserError(f"no rewards at step {step}, only at {self.steps}")
        return np.asarray(self.values[:, :, self.steps.index(step)])

    def save(self, path: Path) -> None:
        """Write to the Zarr store ``path``, replacing what is there."""
        import zarr

        attributes = {
            "type": REWARDS,
            "version": VERSION,
            "prompt_ids": self.prompt_ids,
            "settings": self.attrs,
        }
        with atomic_folder(Path(path)) as folder:
            group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
            arrays = {
                "values": (self.values, ("prompt", "image", "step")),
                "seeds": (np.asarray(self.seeds, np.int64), ("prompt", "image")),
                "steps": (np.asarray(self.steps, np.int64), ("step",)),
            }
            write_arrays(group, arrays)

    @classmethod
    def load(cls, path: Path) -> RewardTensor:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: if there is none, it is something else, damaged, or of a newer version.
        """
        path = Path(path)
        group = open_group(path, REWARDS)
        attributes: dict[str, Any] = dict(group.attrs)
        values, seeds, steps = (
            np.asarray(open_array(group, path, name)[:]) for name in ("values", "seeds", "steps")
        )
        return cls(values, steps.tolist(), attributes["prompt_ids"], seeds, attributes["settings"])


def reward_table(prompt_ids: Sequence[str], seeds: np.ndarray, rewards: np.ndarray) -> pd.DataFrame:
    """Rewards (prompt, image) as a tidy table: prompt_id, image_id, seed, reward."""
    import pandas as pd

    prompts, images = rewards.shape
    return pd.DataFrame(
        {
            "prompt_id": np.repeat(np.asarray(prompt_ids, object), images),
            "image_id": np.tile(np.arange(images), prompts),
            "seed": seeds.ravel(),
            "reward": rewards.ravel(),
        }
    ).astype(TABLE_COLUMNS)


def reward_matrix(table: pd.DataFrame, prompt_ids: Sequence[str]) -> np.ndarray:
    """The rewards of a tidy table as (prompt, image) float32, prompts as in ``prompt_ids``.

    Raises:
        UserError: if a reward is missing or given twice.
    """
    if table.duplicated(["prompt_id", "image_id"]).any():
        raise UserError("reward table: some image has two rewards")
    wide = table.pivot(index="prompt_id", columns="image_id", values="reward")
    wide = wide.reindex(index=list(prompt_ids)).sort_index(axis=1)
    missing = wide.index[wide.isna().any(axis=1)]
    if len(missing):
        raise UserError(f"reward table: prompt {missing[0]} lacks rewards")
    return wide.to_numpy(np.float32)


def read_drafts(receipts: Sequence[Path]) -> np.ndarray:
    """Rewards (P, I) of drafts of a split, from the receipts of its blocks in their order."""
    return np.concatenate([np.load(path.with_suffix(".npy")) for path in receipts])


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, values exact; a reader sees all of it or nothing."""
    with atomic(Path(path)) as file:
        table.to_parquet(file, index=False)


def read_table(path: Path, columns: Mapping[str, str] = TABLE_COLUMNS) -> pd.DataFrame:
    """Read a Parquet table that has at least ``columns`` (name to dtype).

    Raises:
        UserError: if there is none, it is damaged, or lacks a column.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no table here") from None
    except ValueError as error:
        raise UserError(f"{path}: not a Parquet table ({error})") from None
    for name, dtype in columns.items():
        if name not in table or table[name].dtype != dtype:
            raise UserError(f"{path}: expected a column {name} of type {dtype}")
    return table
