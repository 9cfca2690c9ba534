"""Rewards that others computed: released folders of YAML files, reward tables, NumPy arrays.

The release of TTSnap (arXiv 2511.22242) has one folder per model, reward, split and kind, such as
``flux_hps_val_naft``, with one YAML file per step, ``p200_i200_s07.yaml``: ``{prompt: [rewards]}``.
Its ground truth is one YAML file per reward: ``{p0000: {id000: reward}}``. Half a million numbers
take libyaml many times as long as the block layout that these files are in, so that this layout is
read directly and libyaml takes whatever is written differently.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ttsnap.errors import UserError
from ttsnap.progress import track
from ttsnap.store.files import atomic
from ttsnap.store.tensors import RewardTensor, reward_table
from ttsnap.store.trajectories import UNKNOWN_SEED

LAYOUT = (
    "expected folders such as flux_hps_val_base or hps_naft with one p200_i200_s00.yaml per step, "
    "or an .npz or .npy with arrays such as hps_base"
)
YAML = (".yaml", ".yml")
ARRAYS = (".npz", ".npy")

_NAME = re.compile(
    r"(?:[^_]+_)?(?P<reward>[^_]+)(?:_(?P<split>train|val|test))?_(?P<kind>base|naft)"
)
_STEP = re.compile(r"(?:p(?P<prompts>\d+)_i(?P<images>\d+)_)?s(?P<step>\d+)")
_NUMBER = rb"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_LIST = re.compile(rb"(\d+):\n((?: *- %b\n)+)" % _NUMBER)
_TABLE = re.compile(rb"(p\d+):\n((?: +id\d+: %b\n)+)" % _NUMBER)


@dataclass(frozen=True, eq=False)
class ReleasedReward:
    """One reward of all images at all steps.

    Attributes:
        base: (P, I, S) float32, finite; the untouched reward.
        finetuned: (P, I, S) float32; a step without finetuned values is NaN throughout.
        split: of the prompts, where the source names it.
    """

    base: np.ndarray
    finetuned: np.ndarray
    split: str | None

    @property
    def finetuned_steps(self) -> list[int]:
        """Step indices that have finetuned values."""
        return np.flatnonzero(~np.isnan(self.finetuned[0, 0])).tolist()


def read_rewards(sources: Sequence[Path]) -> dict[str, ReleasedReward]:
    """Read reward folders (or a folder of such folders) and arrays, by the name of the reward.

    Arrays are called ``<reward>_<base|naft>``, in an ``.npz`` by their keys and as ``.npy`` by the
    names of the files. Finetuned values may be missing, at some steps or altogether.

    Raises:
        UserError: naming file and place of what is missing, unreadable, ragged, of another shape,
            or not finite.
    """
    parts: dict[tuple[str, str], _Part] = {}
    for part in _parts(sources):
        if other := parts.get((part.reward, part.kind)):
            raise UserError(
                f"{part.place}: {part.reward}_{part.kind} is in {other.place} already; import one "
                "of them"
            )
        parts[part.reward, part.kind] = part
    arrays = _read_steps([part for part in parts.values() if isinstance(part.content, dict)])
    parts |= {(part.reward, part.kind): part for part in arrays}
    return {
        reward: _pair(reward, parts.get((reward, "base")), parts.get((reward, "naft")))
        for reward in sorted({reward for reward, _ in parts})
    }


@dataclass(frozen=True, eq=False)
class _Part:
    """The base or the finetuned (naft) values of a reward; step files until they are read."""

    place: Path
    reward: str
    kind: str
    split: str | None
    content: np.ndarray | dict[int, Path]


def _parts(sources: Sequence[Path]) -> Iterator[_Part]:
    for place in _places(sources):
        if place.suffix == ".npz":
            for name, array in _load_npz(place):
                yield _part(place, f"{place}: array {name}", name, array)
        elif place.is_file():
            yield _part(place, str(place), place.stem, _load(place))
        else:
            yield _part(place, str(place), place.name, _step_files(place))


def _part(place: Path, words: str, name: str, content: np.ndarray | dict[int, Path]) -> _Part:
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{words}: cannot tell the reward from this name; {LAYOUT}")
    return _Part(place, match["reward"], match["kind"], match["split"], content)


def _places(sources: Sequence[Path]) -> Iterator[Path]:
    """The reward folders and array files that the sources are or hold."""
    for source in sources:
        if source.is_file():
            if source.suffix not in ARRAYS:
                raise UserError(f"{source}: neither .npz nor .npy; {LAYOUT}")
            yield source
            continue
        if not source.is_dir():
            raise UserError(f"{source}: no such file or folder")
        inside = sorted(source.iterdir())
        if any(path.suffix in YAML for path in inside):
            yield source
            continue
        found = [
            path
            for path in inside
            if path.suffix in ARRAYS or (path.is_dir() and _NAME.fullmatch(path.name))
        ]
        if not found:
            raise UserError(f"{source}: no rewards here; {LAYOUT}")
        yield from found


def _step_files(folder: Path) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in YAML:
            continue
        match = _STEP.fullmatch(path.stem)
        if match is None:
            raise UserError(
                f"{path}: cannot tell the step from this name; expected p200_i200_s00.yaml"
            )
        step = int(match["step"])
        if step in files:
            raise UserError(f"{path}: step {step} is in {files[step].name} already")
        files[step] = path
    if not files:
        raise UserError(f"{folder}: no steps here; {LAYOUT}")
    return files


def _read_steps(folders: Sequence[_Part]) -> list[_Part]:
    """The parts with arrays (P, I, S) in place of files, NaN at steps that have no file."""
    jobs = [
        (part, step, path)
        for part in folders
        if isinstance(part.content, dict)
        for step, path in part.content.items()
    ]
    read: dict[_Part, dict[int, np.ndarray]] = {part: {} for part in folders}
    first: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for part, step, path in track(jobs, "read rewards") if jobs else ():
        matrix = read_matrix(path)
        other, shape = first.setdefault(part.reward, (path, matrix.shape))
        if matrix.shape != shape:
            raise UserError(f"{path}: {_size(matrix.shape)}, but {other} has {_size(shape)}")
        read[part][step] = matrix
    parts = []
    for part, matrices in read.items():
        array = np.full((*first[part.reward][1], max(matrices) + 1), np.nan, np.float32)
        for step, matrix in matrices.items():
            array[:, :, step] = matrix
        parts.append(replace(part, content=array))
    return parts


def read_matrix(path: Path) -> np.ndarray:
    """Read a YAML file ``{0: [rewards], …}`` or ``{p0000: {id000: reward, …}, …}``.

    Returns:
        (prompts, images) float32, finite.

    Raises:
        UserError: not such a file, prompts or images that do not count from 0 without a gap, rows
            of different lengths, values that are no finite numbers, or a size other than the one
            that a name such as ``p200_i200_s00.yaml`` tells.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    rows = parse_block_layout(data) or _parse_yaml(path, data)
    lists = [
        _row(rows[key], f"{path}: prompt {key}") for key in _in_order(rows, f"{path}: prompt", "p")
    ]
    for prompt, row in enumerate(lists):
        if len(row) != len(lists[0]):
            raise UserError(
                f"{path}: prompt {prompt} has {len(row)} rewards, prompt 0 has {len(lists[0])}"
            )
    try:
        matrix = np.asarray(lists, np.float64)
    except (TypeError, ValueError):
        raise _no_number(lists, path) from None
    with np.errstate(over="ignore"):  # becomes infinite, which is found next
        matrix = matrix.astype(np.float32)
    if (bad := np.argwhere(~np.isfinite(matrix))).size:
        prompt, image = bad[0]
        value = lists[prompt][image]
        raise UserError(f"{path}: prompt {prompt}, image {image}: {value} is not a finite reward")
    match = _STEP.fullmatch(path.stem)
    if match and match["prompts"]:
        named = int(match["prompts"]), int(match["images"])
        if matrix.shape != named:
            raise UserError(f"{path}: {_size(matrix.shape)}, but its name says {_size(named)}")
    return matrix


def parse_block_layout(data: bytes) -> dict[str, Any] | None:
    """Rows of a file in block layout, as YAML libraries write it; None if it is anything else."""
    pattern = _TABLE if data.startswith(b"p") else _LIST
    if not data.endswith(b"\n"):
        data += b"\n"
    rows: dict[str, Any] = {}
    end = 0
    for match in pattern.finditer(data):
        key = match[1].decode()
        if match.start() != end or key in rows:
            return None
        end = match.end()
        if pattern is _TABLE:
            words = match[2].decode().replace(":", "").split()
            rows[key] = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        else:
            rows[key] = list(map(float, match[2].replace(b"- ", b"").split()))
    return rows if end == len(data) else None


def _parse_yaml(path: Path, data: bytes) -> dict[str, Any]:
    try:
        loaded = yaml.load(data, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{place}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict) or not loaded:
        kind = "nothing" if not loaded else f"a {type(loaded).__name__}"
        raise UserError(f"{path}: expected {{prompt: [rewards]}}, found {kind}")
    return {str(key): row for key, row in loaded.items()}


def _in_order(entries: dict[str, Any], place: str, prefix: str) -> list[str]:
    """The keys by their numbers, which must be 0, 1, … without a gap."""
    numbers: dict[int, str] = {}
    for key in entries:
        digits = str(key).removeprefix(prefix)
        if not digits.isdecimal():
            raise UserError(f"{place} {key}: expected a number, such as 0 or {prefix}000")
        numbers[int(digits)] = key
    for number in range(len(entries)):
        if number not in numbers:
            raise UserError(f"{place} {number} is missing, expected 0 to {max(numbers)}")
    return [numbers[number] for number in range(len(entries))]


def _row(row: Any, place: str) -> list[Any]:
    if isinstance(row, dict):
        return [row[key] for key in _in_order(row, f"{place}, image", "id")]
    if not isinstance(row, list):
        raise UserError(f"{place}: expected a list of rewards, found {row!r}")
    return row


def _no_number(lists: list[list[Any]], path: Path) -> UserError:
    """The error that names the first value that is no number."""
    for prompt, row in enumerate(lists):
        for image, value in enumerate(row):
            try:
                float(value)
            except (TypeError, ValueError):
                place = f"{path}: prompt {prompt}, image {image}"
                return UserError(f"{place}: expected a number, found {value!r}")
    raise AssertionError("all are numbers")


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a NumPy array of numbers ({error})") from None


def _load_npz(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                yield name, arrays[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an .npz of numbers ({error})") from None


def _pair(reward: str, base: _Part | None, finetuned: _Part | None) -> ReleasedReward:
    if base is None:
        assert finetuned is not None
        raise UserError(
            f"{finetuned.place}: {reward} has finetuned rewards, but {reward}_base is missing"
        )
    values = _floats(base)
    for step in range(values.shape[2]):
        if np.isnan(values[:, :, step]).all():
            raise UserError(f"{base.place}: {reward}_base has no rewards at step {step}")
    _check_finite(base, values, np.isfinite(values))
    spread = np.full_like(values, np.nan)
    if finetuned is not None:
        given = _floats(finetuned)
        if given.shape[:2] != values.shape[:2] or given.shape[2] > values.shape[2]:
            raise UserError(
                f"{finetuned.place}: {reward}_naft has {_size(given.shape)}, but {reward}_base has "
                f"{_size(values.shape)}"
            )
        _check_finite(finetuned, given, np.isfinite(given) | np.isnan(given).all(axis=(0, 1)))
        spread[:, :, : given.shape[2]] = given
    return ReleasedReward(values, spread, base.split)


def _floats(part: _Part) -> np.ndarray:
    array = np.asarray(part.content)
    if array.ndim != 3 or array.dtype.kind not in "iuf" or 0 in array.shape:
        raise UserError(
            f"{part.place}: {part.reward}_{part.kind} has shape {array.shape} and type "
            f"{array.dtype}; expected numbers of shape (prompts, images, steps)"
        )
    with np.errstate(over="ignore"):  # becomes infinite, which is found next
        return array.astype(np.float32)


def _check_finite(part: _Part, values: np.ndarray, good: np.ndarray) -> None:
    if (bad := np.argwhere(~good)).size:
        prompt, image, step = bad[0]
        raise UserError(
            f"{part.place}: {part.reward}_{part.kind}: prompt {prompt}, image {image}, "
            f"step {step}: {values[prompt, image, step]} is not a finite reward"
        )


def _size(shape: tuple[int, ...]) -> str:
    names = ("prompts", "images", "steps")
    return " x ".join(f"{size} {name}" for size, name in zip(shape, names, strict=False))


def write_npz(path: Path, rewards: dict[str, ReleasedReward]) -> None:
    """Write arrays ``<reward>_base`` and ``<reward>_naft``, which ``ttsnap simulate`` reads."""
    arrays: dict[str, np.ndarray] = {}
    for name, reward in rewards.items():
        arrays |= {f"{name}_base": reward.base, f"{name}_naft": reward.finetuned}
    with atomic(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_tensors(folder: Path, rewards: dict[str, ReleasedReward]) -> None:
    """Write ``<reward>/<split>.<base|finetuned>.zarr`` as in the tensors folder of a run.

    Prompts are called p0000, p0001, …; seeds are unknown. The split is test where none is named.
    """
    for name, reward in rewards.items():
        prompts, images, steps = reward.base.shape
        split = reward.split or "test"
        for kind, values in (("base", reward.base), ("finetuned", reward.finetuned)):
            tensor = RewardTensor(
                values,
                list(range(steps)),
                _prompt_ids(prompts),
                np.full((prompts, images), UNKNOWN_SEED, np.int64),
                {"reward": name, "kind": kind, "split": split},
            )
            tensor.save(folder / name / f"{split}.{kind}.zarr")


def ground_truth(path: Path) -> pd.DataFrame:
    """The table (see :func:`~ttsnap.store.tensors.reward_table`) of a released YAML file.

    Prompts are called p0000, p0001, … as in the file; seeds are unknown.

    Raises:
        UserError: see :func:`read_matrix`.
    """
    matrix = read_matrix(path)
    return reward_table(_prompt_ids(len(matrix)), np.full(matrix.shape, UNKNOWN_SEED), matrix)


def _prompt_ids(count: int) -> list[str]:
    return [f"p{prompt:04d}" for prompt in range(count)]
