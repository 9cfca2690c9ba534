"""Trajectory stores: the decoded Tweedie estimates of a split.

Layout (Zarr 3):

    images  (prompt, image, step, height, width, channel) uint8
    latents (prompt, image, step, channel, y, x) float16, if there are previews to make of them
    seeds   (prompt, image) int64, sigmas (step) float32, steps (step) int64

The init job writes all metadata and the coordinates. A job writes one block of prompts, which is
one shard of each array, or one per range of steps where the images of the whole block would exceed
``SHARD_BYTES``; no other job touches these files. A chunk, the unit of reading, holds a single step
of images.

A trajectory store lies in a folder or in an object store (:func:`ttsnap.store.files.place`), where
nothing is locked or renamed: every file is put there whole. In the folder of the run lie its
receipts, ``<split>/``, and what unfinished jobs have so far, ``<split>.parts/``
(:mod:`ttsnap.generate`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsnap.errors import UserError
from ttsnap.prompts import Prompt, prompts_hash
from ttsnap.store.files import (
    Place,
    about,
    atomic,
    files_under,
    is_file,
    place,
    remove_tree,
    sha256_of,
)
from ttsnap.store.groups import (
    ROOT,
    VERSION,
    encoded_shard,
    open_array,
    open_group,
    write_arrays,
)
from ttsnap.store.receipts import read_receipt

if TYPE_CHECKING:
    import zarr
    from zarr.core.buffer import Buffer

TRAJECTORIES = "ttsnap.trajectories"
SHARDS = ("images/c/", "latents/c/")

CHUNK_BYTES = 2**20  # a chunk holds as many images of a step as fit, before compression
SHARD_BYTES = 2**28  # bounds what writing a shard takes of memory
UNKNOWN_SEED = -1


def _largest_divisor(number: int, most: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(1, most))


def steps_per_shard(steps: int, step_bytes: int) -> int:
    """Stored steps that share a shard, where a step of a block takes ``step_bytes``."""
    return min(steps, max(1, SHARD_BYTES // step_bytes))


def _fingerprint(
    shape: Sequence[int], attributes: Mapping[str, Any], coordinates: Sequence[np.ndarray]
) -> str:
    described = {key: value for key, value in attributes.items() if key != "fingerprint"}
    digest = hashlib.sha256(json.dumps([shape, described], sort_keys=True).encode())
    for values in coordinates:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def create_store(
    path: Place,
    *,
    prompts: Sequence[Prompt],
    seeds: np.ndarray,
    steps: Sequence[int],
    sigmas: np.ndarray,
    height: int,
    width: int,
    block: int,
    settings: Mapping[str, Any],
    latents: Sequence[int] | None = None,
    groups: tuple[int, int] | None = None,
    receipts: Path | None = None,
) -> TrajectoryStore:
    """Write the metadata and coordinates of a trajectory store.

    A store with exactly these is kept with all its finished blocks. One that differs in anything
    is obsolete, and is replaced together with the parts of its unfinished blocks, unless it has
    blocks that were made elsewhere. Until all is written there is no store; an interrupted call is
    made up for by the next.

    Args:
        path: the place, by custom named ``<split>.zarr``.
        prompts: the prompts of the split, in order.
        seeds: (prompt, image) int64, the noise seed of each trajectory; ``UNKNOWN_SEED`` if
            unknown.
        steps: ascending indices of the steps to be stored.
        sigmas: float32, noise level (sigma / alpha) of the latents that enter each of ``steps``.
        height, width: of the images, in pixels.
        block: prompts per job.
        settings: JSON types; everything else that decides what the images look like.
        latents: shape (C, h, w) of those that are kept beside the images; none keeps none.
        groups: where images of a prompt depend on each other, how many consecutive ones form a
            group, and which of them all others depend on.
        receipts: folder of its receipts; if not given, beside the store and named like it.

    Raises:
        UserError: if something that is not a trajectory store lies at ``path``, or one that has
            blocks of which no receipt tells, where it does not lie beside its receipts.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    coordinates: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "seeds": (np.asarray(seeds, np.int64), ("prompt", "image")),
        "sigmas": (np.asarray(sigmas, np.float32), ("step",)),
        "steps": (np.asarray(steps, np.int64), ("step",)),
    }
    images = coordinates["seeds"][0].shape[1]
    if coordinates["seeds"][0].shape[0] != len(prompts) or len(sigmas) != len(steps):
        raise ValueError("seeds must have a row per prompt, sigmas a value per stored step")
    shape = (len(prompts), images, len(steps), height, width, 3)
    attributes: dict[str, Any] = {
        "type": TRAJECTORIES,
        "version": VERSION,
        "prompt_ids": [prompt.id for prompt in prompts],
        "texts": [prompt.text for prompt in prompts],
        "negatives": [prompt.negative for prompt in prompts],
        "prompts_hash": prompts_hash(list(prompts)),
        "images_per_prompt": images,
        "prompts_per_block": block,
        "settings": json.loads(json.dumps(settings)),
    }
    if latents is not None:
        attributes["latents"] = list(latents)
    if groups is not None:
        attributes |= {"group_size": groups[0], "group_reference": groups[1]}
    attributes["fingerprint"] = _fingerprint(
        shape, attributes, [values for values, _ in coordinates.values()]
    )

    if receipts is None:
        receipts = Path(str(path)).with_suffix("")
    if is_file(path / ROOT):
        store = open_store(path)
        if store.fingerprint == attributes["fingerprint"]:
            return store
        if path.parent != receipts.parent and not _is_told_of(store, receipts):
            raise UserError(
                f"{path}: holds images of other settings, made by another run; set `run` or "
                "`stores` to something else, or remove it"
            )
        remove_tree(parts_folder(receipts))
        with about(path):
            (path / ROOT).unlink()

    image_bytes = height * width * 3
    images_per_chunk = _largest_divisor(images, CHUNK_BYTES // image_bytes)
    prompts_per_chunk = (
        _largest_divisor(block, CHUNK_BYTES // (images * image_bytes))
        if images_per_chunk == images
        else 1
    )
    steps_together = steps_per_shard(len(steps), block * images * image_bytes)
    compressor = ZstdCodec(level=3, checksum=True)
    contents: dict[str, Buffer] = {}
    group = zarr.create_group(contents, zarr_format=3, attributes=attributes)
    arrays: list[tuple[str, str, tuple[int, ...], tuple[str, ...]]] = [
        ("images", "uint8", (height, width, 3), ("height", "width", "channel"))
    ]
    if latents is not None:
        arrays.append(("latents", "float16", tuple(latents), ("channel", "y", "x")))
    for name, dtype, size, axes in arrays:
        group.create_array(
            name,
            shape=(*shape[:3], *size),
            dtype=dtype,
            chunks=(prompts_per_chunk, images_per_chunk, 1, *size),
            shards=(block, images, steps_together, *size),
            compressors=compressor,
            fill_value=0,
            dimension_names=("prompt", "image", "step", *axes),
        )
    write_arrays(group, coordinates)
    for name in files_under(path):
        ours = name in contents or name.startswith(SHARDS) or name.endswith(".partial")
        if not ours:
            raise UserError(f"{path}: no store here, but {name}; remove it or name another place")
    remove_tree(path)
    # The file that makes it a store comes last.
    for name in sorted(contents, key=ROOT.__eq__):
        with atomic(path / name) as file:
            file.write(contents[name].to_bytes())
    return open_store(path)


def parts_folder(receipts: Path) -> Path:
    """Where the jobs of a store, whose receipts lie in ``receipts``, keep what is unfinished."""
    return receipts.with_name(f"{receipts.name}.parts")


def _is_told_of(store: TrajectoryStore, receipts: Path) -> bool:
    """Whether the blocks of a store, if there are any, were made by who has these receipts."""
    told = any(
        read_receipt(receipt).get("fingerprint") == store.fingerprint
        for receipt in receipts.glob("block_*.json")
    )
    return told or not any(name.startswith(SHARDS) for name in files_under(store.path))


def open_store(path: str | Place) -> TrajectoryStore:
    """Open a trajectory store in a folder or at a URL (:func:`ttsnap.store.files.place`).

    Raises:
        UserError: if there is none, it is something else, damaged, or of a newer version.
    """
    where = place(path) if isinstance(path, str) else path
    with about(where):
        return TrajectoryStore(where, open_group(where, TRAJECTORIES))


class TrajectoryStore:
    """The decoded Tweedie estimates of a split; see :func:`open_store`.

    Attributes:
        path: where the store lies.
        prompts: in the order of the first axis; their texts are kept in the store.
        steps: ascending step indices that are stored; the last one is the final image.
        seeds: (prompt, image) int64, ``UNKNOWN_SEED`` in imported stores.
        sigmas: (step) float32, NaN in imported stores.
        settings: what else decided how the images look.
        group_size: how many consecutive images of a prompt share a reference; 1 where all are
            independent.
        group_reference: which image of a group that is.
        fingerprint: sha256 over all of these; receipts and parts carry it.
        array: ``images`` itself. Blocks that are not there yet read as black, so prefer
            :meth:`images` and :meth:`trajectory`.
        latents: those of the images, as the denoiser has them, if they are kept.
    """

    def __init__(self, path: Place, group: zarr.Group) -> None:
        attributes: dict[str, Any] = dict(group.attrs)
        self.path = path
        self.array = open_array(group, path, "images")
        self.latents = open_array(group, path, "latents") if "latents" in attributes else None
        coordinates = [
            np.asarray(open_array(group, path, name)[:]) for name in ("seeds", "sigmas", "steps")
        ]
        self.seeds, self.sigmas, steps = coordinates
        self.steps: list[int] = steps.tolist()
        # Zarr reads a file that is missing as zeros.
        if attributes.get("fingerprint") != _fingerprint(self.array.shape, attributes, coordinates):
            raise UserError(f"{path}: damaged: attributes, seeds, sigmas or steps were changed")
        self.settings: dict[str, Any] = attributes["settings"]
        self.group_size: int = attributes.get("group_size", 1)
        self.group_reference: int = attributes.get("group_reference", 0)
        self.fingerprint: str = attributes["fingerprint"]
        self.prompt_ids: list[str] = attributes["prompt_ids"]
        self._texts: list[str] = attributes["texts"]
        self._negatives: list[str] = attributes["negatives"]
        self._block: int = attributes["prompts_per_block"]

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @cached_property
    def prompts(self) -> list[Prompt]:
        rows = zip(self.prompt_ids, self._texts, self._negatives, strict=True)
        return [Prompt(id, text, negative, i) for i, (id, text, negative) in enumerate(rows)]

    @property
    def images_per_prompt(self) -> int:
        return int(self.array.shape[1])

    @property
    def reference_seeds(self) -> np.ndarray:
        """(prompt, image) int64, seed of each one's reference; its own where independent."""
        images = np.arange(self.images_per_prompt)
        chosen = images - images % self.group_size + self.group_reference
        seeds: np.ndarray = self.seeds[:, chosen]
        return seeds

    @property
    def final(self) -> int:
        """Step index of the final images."""
        return self.steps[-1]

    def step_position(self, step: int) -> int:
        """Where step index ``step`` lies on the step axis.

        Raises:
            UserError: if it is not stored.
        """
        if step not in self.steps:
            raise UserError(f"{self.path}: step {step} is not stored, only {self.steps}")
        return self.steps.index(step)

    def images(
        self, prompts: slice | Sequence[int] = slice(None), step: int | None = None
    ) -> np.ndarray:
        """Images of one step index, the final one by default.

        Returns:
            (prompt, image, height, width, 3) uint8.

        Raises:
            UserError: if the step is not stored, or a block is not generated yet.
        """
        position = self.step_position(self.final if step is None else step)
        if isinstance(prompts, slice):
            self._require(range(*prompts.indices(len(self))))
            return self.read((prompts, slice(None), position))
        self._require(prompts)
        shape = self.array.shape
        images = np.empty((len(prompts), shape[1], *shape[3:]), np.uint8)
        # Chunk by chunk: orthogonal selection across shards is some hundred times slower.
        chunks = np.asarray(prompts, np.int64) // self.array.chunks[0]
        for chunk in np.unique(chunks):
            (places,) = np.nonzero(chunks == chunk)
            wanted = np.asarray(prompts)[places]
            first = wanted.min()
            read = self.read((slice(first, wanted.max() + 1), slice(None), position))
            images[places] = read[wanted - first]
        return images

    def latents_of(self, prompts: slice, step: int) -> np.ndarray:
        """Latents of one step index, (prompt, image, C, h, w) float16.

        Raises:
            UserError: if none are kept, the step is not stored, or a block is not generated yet.
        """
        if self.latents is None:
            raise UserError(f"{self.path}: keeps no latents, of which previews are made")
        position = self.step_position(step)
        self._require(range(*prompts.indices(len(self))))
        with about(self.path):
            return np.asarray(self.latents[prompts, :, position])

    def trajectory(self, prompt: int) -> np.ndarray:
        """All that is stored of one prompt: (image, step, height, width, 3) uint8.

        Raises:
            UserError: if its block is not generated yet.
        """
        self._require([prompt])
        return self.read((prompt,))

    def read(self, selection: tuple[slice | int, ...]) -> np.ndarray:
        """Part of ``array``, with blocks that are not there black; for basic selections."""
        with about(self.path):
            return np.asarray(self.array[selection])

    def _require(self, prompts: Sequence[int]) -> None:
        for block in sorted({prompt // self._block for prompt in prompts}):
            if not all(is_file(self.path / shard) for shard in self.shards(block)):
                raise UserError(f"{self.path}: block {block} is not generated yet")

    # Blocks

    @property
    def blocks(self) -> int:
        """Number of blocks, hence of jobs."""
        return -(-len(self) // self._block)

    def block_prompts(self, block: int) -> range:
        """Positions of the prompts of a block."""
        start = block * self._block
        return range(start, min(start + self._block, len(self)))

    def shards(self, block: int) -> list[str]:
        """Files of a block, relative to the store."""
        shards = self.array.shards
        assert shards is not None
        ranges = -(-len(self.steps) // shards[2])
        kept = SHARDS if self.latents is not None else SHARDS[:1]
        return [f"{folder}{block}/0/{i}/0/0/0" for folder in kept for i in range(ranges)]

    def stamp(self, block: int) -> str:
        """Another one whenever a shard of a block was written anew; quick, as it reads none.

        Raises:
            UserError: if the block is not generated yet.
        """
        self._require(self.block_prompts(block))
        with about(self.path):
            found = [(self.path / shard).stat() for shard in self.shards(block)]
        sizes_and_times = repr([(one.st_size, one.st_mtime) for one in found])
        return hashlib.sha256(sizes_and_times.encode()).hexdigest()[:16]

    def write_block(
        self,
        block: int,
        read: Callable[[int], np.ndarray],
        read_latents: Callable[[int], np.ndarray] | None = None,
    ) -> dict[str, Any]:
        """Write the shards of a block, each of them once and whole.

        Args:
            read: gives the images at a position of the step axis,
                (prompt of the block, image, height, width, 3) uint8.
            read_latents: the same of latents, (prompt of the block, image, C, h, w), where the
                store keeps them.

        Returns:
            The fields of its receipt: what it is of, prompt ids, sha256 over its seeds, and size
            and sha256 of every shard.
        """
        prompts = self.block_prompts(block)
        shards = iter(self.shards(block))
        sums = {}
        for array, give in ((self.array, read), (self.latents, read_latents)):
            if array is None or give is None:
                continue
            assert array.shards is not None
            for start in range(0, len(self.steps), array.shards[2]):
                positions = range(start, min(start + array.shards[2], len(self.steps)))
                size = (len(prompts), array.shape[1], len(positions), *array.shape[3:])
                values = np.empty(size, array.dtype)
                for position in positions:
                    values[:, :, position - start] = give(position)
                shard, content = next(shards), encoded_shard(values, array)
                with atomic(self.path / shard) as file:
                    file.write(content)
                sums[shard] = {
                    "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
        seeds = np.ascontiguousarray(self.seeds[prompts.start : prompts.stop])
        return {
            "kind": "trajectories",
            "store": self.path.name,
            "fingerprint": self.fingerprint,
            "block": block,
            "prompt_ids": [self.prompt_ids[prompt] for prompt in prompts],
            "images_per_prompt": self.images_per_prompt,
            "steps": self.steps,
            "seeds_sha256": hashlib.sha256(seeds.tobytes()).hexdigest(),
            "shards": sums,
        }

    def remove_strays(self, block: int) -> None:
        """Remove what jobs that were killed left of shards they had begun to write."""
        for folder in (f"{shards}{block}/" for shards in SHARDS):
            for name in files_under(self.path / folder):
                if folder + name not in self.shards(block):
                    with about(self.path):
                        (self.path / folder / name).unlink(missing_ok=True)

    def damage(self, receipt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What of a block's shards differs from its ``receipt``: pairs of shard and finding."""
        for shard, expected in receipt["shards"].items():
            path = self.path / shard
            if not is_file(path):
                yield shard, "missing"
                continue
            with about(path):
                size = path.stat().st_size
            if size != expected["bytes"]:
                yield shard, f"{size} bytes, expected {expected['bytes']}"
            elif sha256_of(path) != expected["sha256"]:
                yield shard, "content differs from its receipt (sha256)"


def store_receipt(store: TrajectoryStore) -> dict[str, Any]:
    """The receipt of the init job: sha256 of every file but the blocks."""
    return {
        "kind": "store",
        "store": store.path.name,
        "fingerprint": store.fingerprint,
        "blocks": store.blocks,
        "files": {name: sha256_of(store.path / name) for name in metadata_files(store.path)},
    }


def metadata_files(path: Place) -> list[str]:
    """Files of a store that are not of its blocks, relative to it."""
    return [name for name in files_under(path) if not name.startswith(SHARDS)]
