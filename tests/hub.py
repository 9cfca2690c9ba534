"""A model hub on this machine: folders, served the way huggingface_hub asks for them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, and what was asked.

    Attributes:
        url: its address.
        folders: repository -> its files, all at the commit ``COMMIT``, which is that of main.
        gated: repositories that want a token.
        requests: method and path of all that came.
    """

    url: str
    folders: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)


def _entry(path: Path, name: str) -> dict[str, object]:
    data = path.read_bytes()
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }
    if path.suffix == ".safetensors":
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 130}
    return entry


@contextmanager
def serving(folders: dict[str, Path]) -> Iterator[Hub]:
    """Serve ``folders`` in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append(f"{self.command} {path}")
            api = path.startswith("api/models/")
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            repository = f"{owner}/{name}"
            folder = hub.folders.get(repository)
            rest = rest or ["revision", "main"]
            what, revision, file = rest[0], [*rest, COMMIT][1], "/".join(rest[2:])
            if folder is None:
                self._answer(
                    404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
                )
            elif repository in hub.gated and what in ("auth-check", "resolve"):
                self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            elif revision not in (COMMIT, "main"):
                self._answer(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
            elif not api:
                self._file(folder / file)
            else:
                files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
                names = [f.relative_to(folder).as_posix() for f in files]
                bodies = {
                    "revision": lambda: {
                        "id": repository,
                        "sha": COMMIT,
                        "tags": ["license:openrail"],
                        "siblings": [{"rfilename": name} for name in names],
                    },
                    "tree": lambda: list(map(_entry, files, names)),
                    "auth-check": dict,
                }
                self._answer(200, bodies[what]())

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self._answer(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})
                return
            entry = _entry(path, path.name)
            lfs = entry.get("lfs")
            etag = lfs["oid"] if isinstance(lfs, dict) else entry["oid"]
            self._send(200, path.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

        def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(body).encode()
            self._send(status, content, {"Content-Type": "application/json"} | (headers or {}))

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", folders)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
