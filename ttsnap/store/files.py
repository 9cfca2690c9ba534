"""Files that appear whole or not at all, in folders and in object stores.

A place is a local path, or a path of universal_pathlib for the URL of an object store. What is
written to an object store appears when it is complete; a local file takes its name when it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import uuid4

from ttsnap.errors import UserError

if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath
else:
    Place = Path  # for typer, which reads annotations and is given a parser beside them


OBJECT_STORE = re.compile(r"(s3|gs|az)://[^/@*?[]+(/[^/@*?[]+)*")


def place(text: str) -> Place:
    """A local path, or what the URL of an object store such as ``s3://bucket/folder`` names.

    It is reached through fsspec, by the package for its kind: s3fs, gcsfs or adlfs. Credentials are
    what that finds by itself, in the environment or in its own files.

    Raises:
        UserError: if it is the URL of something else, or the package is not installed.
    """
    if "://" not in text:
        return Path(text)
    if not OBJECT_STORE.fullmatch(text):
        raise UserError(f"{text}: expected s3://, gs:// or az://, a bucket, and names without @*?[")
    from upath import UPath

    try:
        # Others write there too, so a listing is soon out of date.
        path = UPath(text, use_listings_cache=False)
        path.fs  # noqa: B018 - made when first asked for
    except ImportError as error:
        raise UserError(f"{text}: {error}") from None
    return path


def local_folder(text: str) -> Path:
    """A local path.

    Raises:
        UserError: if it is a URL.
    """
    if "://" in text:
        raise UserError(f"{text}: expected a folder here, not a URL")
    return Path(text)


@contextmanager
def about(path: Place) -> Iterator[None]:
    """Name the place in an error about it, which that of a full disk does not by itself.

    Raises:
        UserError: for whatever an object store, or the way to it, reports but a missing file.
    """
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        if not isinstance(path, Path):
            raise UserError(f"{path}: {error or type(error).__name__}") from error
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def is_file(path: Place) -> bool:
    """Whether there is a file; unlike its own method, never no because it could not be asked."""
    if isinstance(path, Path):
        return path.is_file()
    try:
        with about(path):
            return path.fs.info(path.path)["type"] == "file"
    except FileNotFoundError:
        return False


@contextmanager
def atomic(path: Place) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing bytes; it appears whole and stored for good, or not at all."""
    if not isinstance(path, Path):
        buffer = BytesIO()
        yield buffer
        try:
            with about(path):
                path.fs.pipe_file(path.path, buffer.getvalue())
        except FileNotFoundError as error:  # the bucket
            raise UserError(f"{path}: {error}") from error
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of processes that write the same at once, each needs a name of its own.
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with about(path), partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


def check_writable(folder: Place) -> None:
    """Write and remove a file in an object store; a local folder is taken at its word.

    Raises:
        UserError: if it cannot be reached, or takes nothing from here.
    """
    if isinstance(folder, Path):
        return
    probe = folder / uuid4().hex
    with atomic(probe):
        pass
    with about(probe):
        probe.fs.rm_file(probe.path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a fresh folder to fill; when filled, it takes the place of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def files_under(folder: Place) -> list[str]:
    """Files in a folder and its subfolders, sorted, relative to it; none if it is not there."""
    if isinstance(folder, Path):
        found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        return sorted(file.as_posix() for file in found)
    root = folder.path + "/"
    with about(folder):
        try:
            return sorted(file.removeprefix(root) for file in folder.fs.find(root))
        except FileNotFoundError:  # the bucket
            return []


def remove_tree(folder: Place) -> None:
    """Remove a folder and what is in it, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(FileNotFoundError), about(folder):
        folder.fs.rm(folder.path, recursive=True)


def sha256_of(path: Place) -> str:
    digest = hashlib.sha256()
    with about(path), path.open("rb") as file:
        while some := file.read(2**20):
            digest.update(some)
    return digest.hexdigest()
