"""Receipts are read as they were written, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttsnap.errors import UserError
from ttsnap.store.receipts import read_receipt, write_receipt


def test_receipts(tmp_path: Path) -> None:
    path = tmp_path / "deep/block_0000.json"
    write_receipt(path, {"kind": "test", "text": "🐈", "seconds": 1.5})
    receipt = read_receipt(path)
    assert receipt["text"] == "🐈"
    assert {"python", "numpy", "zarr"} <= set(receipt["versions"])
    assert [p.name for p in path.parent.iterdir()] == ["block_0000.json"]
    with pytest.raises(TypeError):
        write_receipt(path, {"kind": object()})
    assert read_receipt(path) == receipt
    path.write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object"):
        read_receipt(path)
    with pytest.raises(UserError, match=r"none\.json: no receipt here"):
        read_receipt(tmp_path / "none.json")
