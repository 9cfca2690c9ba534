"""A store that is whole, in a folder of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores import fill, make_store
from ttsnap.store.trajectories import TrajectoryStore


@pytest.fixture
def filled(tmp_path: Path) -> TrajectoryStore:
    store = make_store(tmp_path / "val.zarr")
    fill(store, tmp_path / "val")
    return store
