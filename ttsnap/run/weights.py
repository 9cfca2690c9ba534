"""What local weight files hold, as a hash that neither a copy nor a new clone changes.

Snakemake compares dates of its inputs, and hashes small ones only. So rules do not take weights as
inputs; they have this hash as a parameter. Models of the hub are pinned by their commit instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttsnap.store.files import atomic, sha256_of

if TYPE_CHECKING:
    from ttsnap.config import Settings

SUFFIXES = (".safetensors", ".pt", ".pth")


def weight_files(section: Settings) -> list[tuple[str, Path]]:
    """Local files of weights that a section of settings names.

    Returns:
        sorted, each with its name in the folder that was named.
    """
    return sorted(
        (file.name if file == place else file.relative_to(place).as_posix(), file)
        for place in {Path(text) for text in _places(section.model_dump())}
        for file in (place, *place.rglob("*"))
        if file.is_file() and (file == place or file.suffix in SUFFIXES)
    )


def weight_stamps(section: Settings) -> list[tuple[str, int, int]]:
    """Name, size and date, in ns, of each of :func:`weight_files`: what tells changed ones apart
    without reading them."""
    files = [(name, file.stat()) for name, file in weight_files(section)]
    return [(name, found.st_size, found.st_mtime_ns) for name, found in files]


def _places(settings: Mapping[str, Any]) -> Iterator[str]:
    """What may be local files or folders among nested settings."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _places(value)
        elif isinstance(value, list):
            yield from (
                place for item in value if isinstance(item, dict) for place in _places(item)
            )
        elif isinstance(value, str) and (key in ("path", "components", "rubric") or "/" in value):
            yield value


class Weights:
    """Hashes of weight files, which are read again only when their size or date is another.

    Args:
        cache: file that keeps them from one start of a workflow to the next.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        try:
            self._known: dict[str, list[int | str]] = json.loads(cache.read_bytes())
        except (OSError, ValueError):
            self._known = {}

    def of(self, *sections: Settings) -> str:
        """SHA-256, in hex, of names and contents of all local weights that ``sections`` name."""
        files = [found for section in sections for found in weight_files(section)]
        held = [[name, self._sha256(file)] for name, file in files]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()

    def _sha256(self, file: Path) -> str:
        status = file.stat()
        size, date, digest = self._known.get(str(file), (0, 0, ""))
        if (size, date) != (status.st_size, status.st_mtime_ns):
            digest = sha256_of(file)
            self._known[str(file)] = [status.st_size, status.st_mtime_ns, digest]
            with atomic(self._cache) as out:
                out.write(json.dumps(self._known).encode())
        return str(digest)
