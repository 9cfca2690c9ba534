"""Files of benchmarks that can be had from GitHub, at a commit and by their hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ttsnap.errors import UserError

SITE = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Published:
    """What a benchmark is read from.

    Attributes:
        repository: OWNER/NAME.
        commit: whose files were looked at.
        files: path -> SHA-256.
    """

    repository: str
    commit: str
    files: dict[str, str]


PUBLISHED = {
    name: Published(**one)
    for name, one in json.loads(Path(__file__).with_suffix(".json").read_bytes()).items()
}
"""By the name of the benchmark."""


def fetch_benchmark(name: str, folder: Path) -> Path:
    """Download a benchmark's files into a folder, but those that are there already.

    Returns:
        What ``ttsnap bench --file`` takes: the file, or the folder of several.

    Raises:
        UserError: it is not known where they are, they cannot be had, or are other files.
    """
    import httpx2

    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"benchmark {name}: is not fetched; {known} are")
    one = PUBLISHED[name]
    folder.mkdir(parents=True, exist_ok=True)
    for path, digest in one.files.items():
        place = folder / Path(path).name
        if place.exists() and _digest(place.read_bytes()) == digest:
            continue
        url = f"{SITE}/{one.repository}/{one.commit}/{path}"
        try:
            response = httpx2.get(url, follow_redirects=True, timeout=60)
            response.raise_for_status()
        except httpx2.HTTPError as error:
            raise UserError(f"{url}: cannot be fetched ({error})") from None
        if _digest(response.content) != digest:
            raise UserError(f"{url}: is another file than the one that was looked at")
        place.write_bytes(response.content)
    return folder / Path(next(iter(one.files))).name if len(one.files) == 1 else folder


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
