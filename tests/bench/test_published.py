"""Files of benchmarks from a server on loopback that has them where GitHub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ttsnap.bench import published
from ttsnap.bench.published import PUBLISHED, Published, fetch_benchmark
from ttsnap.bench.readers import BENCHMARKS
from ttsnap.errors import UserError

TEXTS = {"data/a_val.txt": b"a yak\r\n", "data/b_val.txt": b"two yaks\n"}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that is served; ``several`` and ``single`` are benchmarks there."""
    root = tmp_path / "site"
    for path, text in TEXTS.items():
        place = root / "owner/name" / "c0ffee" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text)
    digests = {path: hashlib.sha256(text).hexdigest() for path, text in TEXTS.items()}
    first = next(iter(digests))
    for name, files in {"several": digests, "single": {first: digests[first]}}.items():
        monkeypatch.setitem(PUBLISHED, name, Published("owner/name", "c0ffee", files))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(published, "SITE", f"http://127.0.0.1:{server.server_port}")
    yield root
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_are_fetched_once_and_proven(
    site: Path, tmp_path: Path, ttsnap, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ttsnap("fetch", "--benchmark", "several", "--out", tmp_path / "files") == 0
    folder = tmp_path / "files/several"
    assert capsys.readouterr().out == f"--file {folder}\n"
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == {
        Path(path).name: text for path, text in TEXTS.items()
    }
    assert fetch_benchmark("single", tmp_path / "one") == tmp_path / "one/a_val.txt"
    for file in site.rglob("*.txt"):
        file.write_bytes(b"other")
    fetch_benchmark("several", folder)  # which are there, and right
    with pytest.raises(UserError, match=r"a_val\.txt: is another file than"):
        fetch_benchmark("several", tmp_path / "new")
    for file in site.rglob("*.txt"):
        file.unlink()
    with pytest.raises(UserError, match=r"a_val\.txt: cannot be fetched \(.*404"):
        fetch_benchmark("several", tmp_path / "new")
    with pytest.raises(UserError, match="benchmark drawbench: is not fetched; geneval, "):
        fetch_benchmark("drawbench", tmp_path / "new")


def test_what_is_fetched_is_a_benchmark() -> None:
    assert set(PUBLISHED) < set(BENCHMARKS)
    for one in PUBLISHED.values():
        assert len(one.commit) == 40
        assert all(len(digest) == 64 for digest in one.files.values())
