"""What is in a .safetensors file, read from its first bytes."""

from __future__ import annotations

import json
from pathlib import Path

from ttsnap.config import FILE
from ttsnap.errors import UserError


def header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a .safetensors file, by name.

    Raises:
        UserError: there is no such file, or it is none.
    """
    try:
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError
            tensors = json.loads(data.read(length))
        return {
            name: tuple(one["shape"]) for name, one in tensors.items() if name != "__metadata__"
        }
    except FileNotFoundError:
        raise UserError(f"model.path: {file}: no such file") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"model.path: {file}: not a {FILE} file") from None
