"""What is in a .safetensors or .gguf file, read from its first bytes."""

from __future__ import annotations

import json
from pathlib import Path

from ttsnap.config import GGUF
from ttsnap.errors import UserError


def header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a .safetensors or .gguf file, by name.

    Raises:
        UserError: there is no such file, it is none, or what reads GGUF is not installed.
    """
    try:
        if file.suffix == GGUF:
            return _gguf_header(file)
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
        raise UserError(f"model.path: {file}: not a {file.suffix} file") from None


def _gguf_header(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"model.path: {file} needs gguf: pip install 'ttsnap[quant]'") from None
    # GGUF has the fastest dimension first.
    return {
        tensor.name: tuple(int(size) for size in reversed(tensor.shape))
        for tensor in GGUFReader(file).tensors
    }
