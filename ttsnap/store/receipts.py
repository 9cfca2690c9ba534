"""Receipts: small JSON files of what a job did and with which versions, written last."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ttsnap
from ttsnap.errors import UserError
from ttsnap.store.files import atomic

PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "zarr", "numcodecs")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results, as far as they are installed."""
    found = {"python": platform.python_version(), "ttsnap": ttsnap.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_receipt(path: Path, receipt: Mapping[str, Any]) -> None:
    """Write ``receipt`` (JSON types only) and the versions in use; a reader sees all or nothing."""
    text = json.dumps({**receipt, "versions": versions()}, indent=2, ensure_ascii=False)
    with atomic(path) as file:
        file.write(text.encode() + b"\n")


def read_receipt(path: Path) -> dict[str, Any]:
    """Read a receipt.

    Raises:
        UserError: if there is none, or it is not a JSON object.
    """
    try:
        receipt = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no receipt here") from None
    except ValueError as error:
        raise UserError(f"{path}: not a receipt: {error}") from None
    if not isinstance(receipt, dict):
        raise UserError(f"{path}: not a receipt: expected a JSON object")
    return receipt


def block_receipt(folder: Path, block: int) -> Path:
    """Where the receipt of ``block`` lies among the receipts of its store."""
    return folder / f"block_{block:04d}.json"
