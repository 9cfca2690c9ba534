"""Where reward tensors come from: an ``.npz`` file, or the stores of a run."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttsnap.errors import UserError
from ttsnap.schedule import AT_PREVIEWS, Accounting, CostModel, split_look
from ttsnap.store.receipts import read_receipt
from ttsnap.store.tensors import RewardTensor


@dataclass(frozen=True)
class RewardPair:
    """One reward of a pool of trajectories, untouched and finetuned.

    Attributes:
        base: (P, I, S) float32, NaN at steps that were not scored.
        finetuned: (P, I, S) float32, with the base's values at steps without a checkpoint.
        finetuned_steps: step indices that have one.
    """

    base: np.ndarray
    finetuned: np.ndarray
    finetuned_steps: list[int]

    @property
    def final(self) -> np.ndarray:
        """(P, I), the rewards of the final images."""
        return np.asarray(self.base[:, :, -1])

    @property
    def base_steps(self) -> list[int]:
        """Step indices that were scored."""
        return np.flatnonzero(np.isfinite(self.base[0, 0])).tolist()

    @property
    def untouched(self) -> RewardPair:
        """The same as if nothing had been finetuned."""
        return RewardPair(self.base, self.base, [])

    def of(self, prompts: slice) -> RewardPair:
        """The same for some of the prompts."""
        return RewardPair(self.base[prompts], self.finetuned[prompts], self.finetuned_steps)

    def scaled(self, offset: float, scale: float) -> RewardPair:
        """The same with (value - offset) / scale for every value."""
        base, finetuned = (
            ((values - offset) / scale).astype(np.float32) for values in (self.base, self.finetuned)
        )
        return RewardPair(base, finetuned, self.finetuned_steps)


def pair(base: np.ndarray, finetuned: np.ndarray) -> RewardPair:
    """Put the base rewards (P, I, S) where the finetuned ones have none (NaN for a whole step).

    Raises:
        UserError: a step where only some values are NaN, for two rewards do not rank together.
    """
    for name, values in (("base", base), ("finetuned", finetuned)):
        absent = np.isnan(values)
        partly = absent.any(axis=(0, 1)) & ~absent.all(axis=(0, 1))
        if partly.any():
            step = int(np.argmax(partly))
            raise UserError(
                f"{name} rewards, step {step}: {int(absent[:, :, step].sum())} of "
                f"{absent[:, :, step].size} are NaN; expected all of a step, or none"
            )
        if np.isinf(values).any():
            step = int(np.argmax(np.isinf(values).any(axis=(0, 1))))
            raise UserError(f"{name} rewards, step {step}: infinite values")
    if np.isnan(base[:, :, -1]).any():
        raise UserError("base rewards: none at the last step, which is that of the final images")
    present = np.isfinite(finetuned[0, 0])
    filled = np.where(present, finetuned, base)
    return RewardPair(base, filled, np.flatnonzero(present).tolist())


def at_all_steps(values: np.ndarray, steps: Sequence[int], total: int) -> np.ndarray:
    """Rewards (P, I, len(steps)) of some steps as (P, I, total), NaN at the others."""
    spread = np.full((*values.shape[:2], total), np.nan, dtype=values.dtype)
    spread[:, :, list(steps)] = values
    return spread


def load_pair(base: Path, finetuned: Path, steps: int) -> RewardPair:
    """Read a run's two tensors of a reward, of sampling with so many ``steps``."""
    return pair(
        *(
            at_all_steps(tensor.values, tensor.steps, steps)
            for tensor in map(RewardTensor.load, (base, finetuned))
        )
    )


def load_source(path: Path, rewards: Sequence[str] | None = None) -> dict[str, RewardPair]:
    """Read reward tensors.

    Args:
        path: an ``.npz`` with arrays ``<reward>_base`` and ``<reward>_naft`` (P, I, S), where a
            step of NaN in the latter, which may be missing, has no finetuned reward; or a run's
            folder ``tensors``, that of one of its rewards, or one store there, for the store's
            split (else ``test``, or the only one).
        rewards: names, each also that of its previews if there are any; all by default.

    Raises:
        UserError: if it is neither, or an array is missing, of another shape, or no number.
    """
    if path.suffix == ".npz":
        found = _load_npz(path, rewards)
    elif path.is_dir():
        found = _load_run(path)
        _require(path, rewards or [], found)
    else:
        raise UserError(f"{path}: expected an .npz file, or the folder of a run's reward tensors")
    shapes = {values.base.shape for values in found.values()}
    if len(shapes) > 1:
        raise UserError(f"{path}: rewards of different shapes: {sorted(shapes)}")
    wanted = [name + look for name in rewards or () for look in ("", AT_PREVIEWS)]
    return {name: found[name] for name in wanted if name in found} or found


def load_drafts(path: Path, rewards: Mapping[str, RewardPair]) -> dict[str, np.ndarray]:
    """Rewards of drafts (P, I) by name, of an ``.npz`` that has arrays ``<reward>_draft``.

    Args:
        path: as of :func:`load_source`.
        rewards: that it gave.

    Raises:
        UserError: some of the rewards have no drafts, or they are of another shape or not finite.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path}: drafts are read of an .npz file, from arrays <reward>_draft")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[f"{name}_draft"] for name in rewards if f"{name}_draft" in arrays}
    if missing := rewards.keys() - found.keys():
        raise UserError(f"{path}: no array {min(missing)}_draft (prompts, images)")
    for name, values in found.items():
        if values.shape != rewards[name].final.shape or not np.isfinite(values).all():
            raise UserError(
                f"{path}: {name}_draft: expected finite rewards of shape "
                f"{rewards[name].final.shape}, (prompts, images)"
            )
    return found


def by_look(
    loaded: Mapping[str, RewardPair],
) -> tuple[Mapping[str, RewardPair], Mapping[str, RewardPair]]:
    """Rewards by decodes and, under the same names, by previews if all are there by both."""
    decodes = {name: pair for name, pair in loaded.items() if not name.endswith(AT_PREVIEWS)}
    previews = {
        name: loaded[name + AT_PREVIEWS] for name in decodes if name + AT_PREVIEWS in loaded
    }
    return decodes or loaded, previews if len(previews) == len(decodes) else {}


def _load_npz(path: Path, rewards: Sequence[str] | None) -> dict[str, RewardPair]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise UserError(f"{path}: not an .npz but a single array")
        with loaded as arrays:
            names = [match[1] for key in arrays if (match := re.fullmatch(r"(.+)_base", key))]
            if not names:
                raise UserError(f"{path}: no array <reward>_base, only {', '.join(arrays)}")
            _require(path, rewards or [], names)
            return {name: _pair_in(path, arrays, name) for name in rewards or names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not an .npz of plain arrays ({error})") from None


def _require(path: Path, wanted: Iterable[str], known: Collection[str]) -> None:
    for name in wanted:
        if name not in known:
            raise UserError(f"{path}: no reward {name}, only {', '.join(known)}")


def pair_of(name: str, base: np.ndarray, finetuned: np.ndarray | None = None) -> RewardPair:
    """:func:`pair` of arrays that somebody else made; without finetuned rewards none are there.

    Raises:
        UserError: naming the reward; another shape or type, too.
    """
    if finetuned is None:
        finetuned = np.full(base.shape, np.nan, np.float32)
    for kind, values in (("base", base), ("finetuned", finetuned)):
        if values.ndim != 3 or values.shape != base.shape or not values.size:
            raise UserError(
                f"{name}: {kind} rewards are {values.shape}, expected (prompts, images, steps)"
                + ("" if values is base else f" as the base ones, {base.shape}")
            )
        if not np.issubdtype(values.dtype, np.floating):
            raise UserError(
                f"{name}: {kind} rewards are {values.dtype}, expected floating point numbers"
            )
    try:
        return pair(base.astype(np.float32), finetuned.astype(np.float32))
    except UserError as error:
        raise UserError(f"{name}, {error}") from None


def _pair_in(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> RewardPair:
    try:
        return pair_of(name, arrays[f"{name}_base"], arrays.get(f"{name}_naft"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _load_run(path: Path) -> dict[str, RewardPair]:
    folders, split = _tensors(path)
    found = {}
    for folder in folders:
        base, finetuned = (folder / f"{split}.{kind}.zarr" for kind in ("base", "finetuned"))
        steps = RewardTensor.load(base).steps
        found[folder.name] = load_pair(base, finetuned, steps[-1] + 1)
    return found


def _tensors(path: Path) -> tuple[list[Path], str]:
    """The folders of the rewards, and the split, that ``path`` means."""
    if path.suffix == ".zarr":
        return [path.parent], path.name.split(".")[0]
    stores = [*path.glob("*.base.zarr")] or [*path.glob("*/*.base.zarr")]
    splits = {store.name.removesuffix(".base.zarr") for store in stores}
    if not splits:
        raise UserError(f"{path}: no reward tensors here, expected test.base.zarr")
    if "test" not in splits and len(splits) > 1:
        names = ", ".join(sorted(splits))
        raise UserError(f"{path}: tensors of {names}, none of test; name one store")
    split = "test" if "test" in splits else splits.pop()
    return sorted(store.parent for store in stores if store.name == f"{split}.base.zarr"), split


def measured_costs(path: Path, previews: bool = False) -> dict[str, CostModel]:
    """By reward, the costs measured in the run that a source is part of; empty if of none.

    With ``previews`` checks may see previews, see :func:`read_costs`.
    """
    if path.suffix == ".npz":
        return {}
    folders = [folder.resolve() for folder in _tensors(path)[0]]
    run = folders[0].parents[1]
    if not (run / "model.json").is_file():
        return {}
    return {
        folder.name: read_costs(
            run / "model.json", run / f"rewards/{name}/cost.json", previews=previews or bool(look)
        )
        for folder in folders
        for name, look in [split_look(folder.name)]
    }


def read_costs(
    model: Path,
    reward_cost: Path,
    accounting: Accounting = "corrected",
    *,
    previews: bool = False,
) -> CostModel:
    """The cost model of what the model and reward cost stages found.

    Where checks can see decodes and previews, it is that of decodes, or with ``previews`` of those.
    """
    prices = read_receipt(reward_cost)
    if prices.get("looks", ["preview"])[0] == "decode" and not previews:
        prices.pop("preview", None)
    steps = read_receipt(model)["steps"]
    return CostModel.of(prices, steps=steps, accounting=accounting, unit=prices["unit"])
