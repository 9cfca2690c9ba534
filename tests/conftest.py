"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os

# Before any test imports torch: one thread a process, and never a look at a model hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
