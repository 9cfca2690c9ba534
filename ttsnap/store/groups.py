"""Zarr 3 groups that say what they are: their type and the version of their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsnap.errors import UserError
from ttsnap.store.files import Place, is_file

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

VERSION = 1
ROOT = "zarr.json"


def _zarr_store(path: Place) -> Path | Store:
    """What Zarr is to open for a place."""
    from zarr.storage import FsspecStore

    if isinstance(path, Path):
        return path
    options = {**path.storage_options}
    return FsspecStore.from_url(str(path), storage_options=options, read_only=True)


def open_group(path: Place, kind: str) -> zarr.Group:
    """Open a Zarr 3 group that says it is of ``kind``.

    Raises:
        UserError: if there is none, it is something else, damaged, or of a newer version.
    """
    import zarr

    if not is_file(path / ROOT):
        raise UserError(f"{path}: no store here, expected {kind}")
    try:
        group = zarr.open_group(_zarr_store(path), mode="r", zarr_format=3, use_consolidated=False)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{path}/{ROOT}: not the metadata of a Zarr 3 group ({error})") from None
    found = group.attrs.get("type")
    if found != kind:
        raise UserError(f"{path}: expected {kind}, found {found or 'a Zarr group without a type'}")
    version = group.attrs.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{path}: version {version} of {kind}, this ttsnap reads up to {VERSION}; update it"
        )
    return group


def open_array(group: zarr.Group, path: Place, name: str) -> zarr.Array[Any]:
    """Open an array of a group that lies at ``path``.

    Raises:
        UserError: if it is missing or damaged.
    """
    import zarr

    try:
        array = group[name]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}/{name}: array missing or damaged ({error})") from None
    if not isinstance(array, zarr.Array):
        raise UserError(f"{path}/{name}: expected an array")
    return array


def write_arrays(group: zarr.Group, arrays: Mapping[str, tuple[np.ndarray, Sequence[str]]]) -> None:
    """Write small arrays, each as a single checksummed chunk."""
    import zarr
    from zarr.codecs import ZstdCodec

    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, (values, dimensions) in arrays.items():
            group.create_array(
                name,
                data=values,
                chunks=values.shape,
                compressors=ZstdCodec(level=3, checksum=True),
                dimension_names=dimensions,
            )


def encoded_shard(values: np.ndarray, array: zarr.Array[Any]) -> bytes:
    """What the file of a shard of ``array`` with these values holds.

    Writing to ``array`` itself would merge with whatever lies there, damaged or of another job.
    """
    import zarr

    files: dict[str, Buffer] = {}
    # Without it an all-black block is no file.
    with zarr.config.set({"array.write_empty_chunks": True}):
        shard = zarr.create_array(
            files,
            shape=values.shape,
            dtype=values.dtype,
            chunks=array.chunks,
            shards=array.shards,
            compressors=array.compressors,
            fill_value=array.fill_value,
        )
        shard[:] = values
    (content,) = (buffer for name, buffer in files.items() if name.startswith("c/"))
    return content.to_bytes()
