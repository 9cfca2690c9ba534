"""Settings shared by all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Before any test imports torch: one thread a process, and never a look at a model hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples on every machine, however slow it is.
settings.register_profile("ttsnap", deadline=None, derandomize=True)
settings.load_profile("ttsnap")
