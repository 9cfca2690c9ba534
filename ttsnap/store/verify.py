"""Proof of a trajectory store against its receipts, and what mends one that is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttsnap.errors import UserError
from ttsnap.store.files import Place, files_under, is_file, sha256_of
from ttsnap.store.receipts import block_receipt, read_receipt
from ttsnap.store.trajectories import SHARDS, TrajectoryStore, metadata_files, open_store


@dataclass(frozen=True)
class Problem:
    """Where a store and its receipts disagree; block and shard as far as they are known."""

    what: str
    block: int | None = None
    shard: str | None = None

    def __str__(self) -> str:
        place = [f"block {self.block}"] if self.block is not None else []
        place += [self.shard] if self.shard is not None else []
        return ": ".join([*place, self.what])


def verify(path: Place, receipts: Path) -> list[Problem]:
    """Prove a trajectory store against the receipts in the folder ``receipts``.

    Metadata and coordinates must be those the init job wrote, every block must have a receipt of
    this very store, every shard must be the file its receipt tells of and decode, and nothing else
    may lie in the store.

    Returns:
        Problems in the order of the blocks; none means the store is whole.
    """
    problems: list[Problem] = []
    try:
        files = read_receipt(receipts / "init.json")["files"]
        present = metadata_files(path)
        for name in sorted({*files, *present}):
            if name not in files:
                problems.append(Problem("unexpected file", shard=name))
            elif name not in present:
                problems.append(Problem("missing", shard=name))
            elif sha256_of(path / name) != files[name]:
                problems.append(
                    Problem("metadata differs from what the init job wrote", None, name)
                )
    except UserError as error:
        problems.append(Problem(str(error)))
    try:
        store = open_store(path)
    except UserError as error:
        return [*problems, Problem(str(error))]

    expected = {shard for block in range(store.blocks) for shard in store.shards(block)}
    for block in range(store.blocks):
        problems += _verify_block(store, block, block_receipt(receipts, block))
    for shard in files_under(path):
        if shard.startswith(SHARDS) and shard not in expected:
            problems.append(Problem("unexpected file, part of no block", shard=shard))
    return problems


def _verify_block(store: TrajectoryStore, block: int, path: Path) -> list[Problem]:
    present = [shard for shard in store.shards(block) if is_file(store.path / shard)]
    if not path.is_file():
        if not present:
            return [Problem("not generated yet", block)]
        return [Problem("has no receipt", block, shard) for shard in present]
    try:
        receipt = read_receipt(path)
    except UserError as error:
        return [Problem(str(error), block)]
    if receipt.get("fingerprint") != store.fingerprint or receipt.get("block") != block:
        return [Problem(f"{path}: receipt of another store or block", block)]
    damage = [Problem(what, block, shard) for shard, what in store.damage(receipt)]
    if damage:
        return damage
    prompts = store.block_prompts(block)
    for position, step in enumerate(store.steps):
        try:
            store.read((slice(prompts.start, prompts.stop), slice(None), position))
        # Codecs raise what they like
        except Exception as error:
            shards = store.array.shards
            assert shards is not None
            shard = store.shards(block)[position // shards[2]]
            return [Problem(f"step {step} does not decode ({error})", block, shard)]
    return []


@dataclass(frozen=True)
class Repair:
    """What helps a damaged store: files to take away, and problems that this does not mend."""

    files: list[Place]
    left: list[Problem]


def repair(path: Place, receipts: Path, problems: Sequence[Problem]) -> Repair:
    """What to take away so that the next run makes anew what is damaged, and nothing else.

    A damaged shard goes with the receipt of its block. Without the receipt the block's job runs
    again; what it finds whole it keeps, so a receipt that was lost or damaged costs no denoising.
    It makes the shards of a block together. Files that belong to no block just go.

    Args:
        path: a generated store; an imported one has no job to run again.
        receipts: folder of its receipts.
        problems: what :func:`verify` found.

    Returns:
        Files that exist, which the caller is to remove, and what only a new store mends.

    Raises:
        UserError: if the store was imported, so that no job can make it anew.
    """
    if problems and _is_imported(path):
        raise UserError(f"{path}: no job made this store that could run again; import it again")
    files: dict[Place, None] = {}
    left = []
    for problem in problems:
        receipt = receipts / "init.json"
        if problem.block is not None:
            receipt = block_receipt(receipts, problem.block)
            if problem.shard is not None and receipt.is_file():
                files[path / problem.shard] = None
            files[receipt] = None
        elif problem.shard is not None and problem.shard.startswith(SHARDS):
            files[path / problem.shard] = None
        elif problem.what.startswith(str(receipt)):
            files[receipt] = None
        else:
            left.append(problem)
    return Repair([file for file in files if is_file(file)], left)


def _is_imported(path: Place) -> bool:
    try:
        return "imported" in open_store(path).settings
    except UserError:
        return False
