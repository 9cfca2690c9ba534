"""Best-of-N with noise at every step."""

from __future__ import annotations

from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.best_of_n import best_of_n

METHOD = Method("rejection", "best-of-N with noise at every step", best_of_n, needs_noise=True)
