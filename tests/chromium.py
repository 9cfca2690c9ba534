"""Debian's Chromium without a window: what a page looks like to it, and what it complains of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

# A window of its own would not be as narrow as a telephone.
FRAME = """<!doctype html><meta charset="utf-8"><iframe src="{page}" width="{width}" height="900"
 style="border: 0"></iframe><pre></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentWindow, root = page.document.documentElement
  for (const one of page.document.querySelectorAll("details")) one.open = true
  const seen = {{
    width: page.innerWidth,
    scroll: root.scrollWidth,
    broken: [...page.document.images].filter((one) => !one.complete || !one.naturalWidth).length,
    images: page.document.images.length,
    requests: page.performance.getEntriesByType("resource")
      .map((one) => one.name).filter((one) => !one.startsWith("data:")),
  }}
  document.querySelector("pre").textContent = JSON.stringify(seen)
}})</script>"""


class Unavailable(Exception):
    """Why there is no Chromium here."""


def install() -> str:
    """The program, installed from the distribution where it is missing.

    Raises:
        Unavailable: it is missing and cannot be installed.
    """
    if found := shutil.which("chromium"):
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable("chromium: not installed; installing needs root and apt-get")
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", *command],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise Unavailable(f"apt-get could not install chromium: {done.stderr.strip()}")
    return shutil.which("chromium") or ""


def look(chromium: str, page: Path, width: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What a frame of ``width`` pixels shows of a page, all details open, and the console's lines.

    Args:
        chromium: of :func:`install`.
        page: the file.
        width: in pixels.
        folder: to write in.
    """
    frame = folder / f"frame_{width}.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width), encoding="utf-8")
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *("--allow-file-access-from-files", "--enable-logging=stderr"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1500,1000"),
            *("--virtual-time-budget=20000", "--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=180,
    )
    said = re.search(r"<pre>(\{.*?\})</pre>", done.stdout, re.DOTALL)
    assert said, done.stderr
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(said[1])), lines
