"""The package as others install it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH into which the wheel of this checkout was installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheel", ROOT]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = (folder / "wheel").iterdir()
    install = ["install", "--no-deps", "--target", folder / "site", wheel]
    subprocess.run([*pip, *install], check=True)
    return folder / "site"
