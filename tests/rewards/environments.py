"""Packages that the parity tests compare with; they cannot be part of the main environment."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]


def folder_of_packages(config: pytest.Config, packages: Sequence[str]) -> dict[str, str]:
    """Install packages, without what they depend on, beside this Python's; kept by pytest's cache.

    Returns:
        The environment variables of a process that finds them.
    """
    folder = _cached(config, packages)
    if not folder.is_dir():
        _pip(sys.executable, ["--no-deps", "--target", folder, *packages], folder)
    places = [str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def environment(config: pytest.Config, packages: Sequence[str]) -> Path:
    """Make a virtual environment with nothing but ``packages``; kept by pytest's cache.

    Returns:
        Its Python.
    """
    folder = _cached(config, packages)
    python = folder / "bin/python"
    if not folder.is_dir():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        _pip(python, packages, folder)
    return python


def _cached(config: pytest.Config, packages: Sequence[str]) -> Path:
    digest = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()[:16]
    return config.cache.mkdir("environments") / digest  # type: ignore[union-attr]


def _pip(python: str | Path, arguments: Sequence[str | Path], folder: Path) -> None:
    command = [python, "-I", "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        fail_or_skip(done.stderr)


def fail_or_skip(said: str) -> NoReturn:
    """End a test in which pip failed and ``said`` why: without a network, as skipped."""
    if "connection" in said.lower():
        pytest.skip("the package index cannot be reached")
    pytest.fail(said)
