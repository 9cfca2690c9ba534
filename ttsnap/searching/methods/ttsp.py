"""TTSp (arXiv 2511.22242): pruning by the untouched reward."""

from __future__ import annotations

from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.methods.ttsnap import ttsnap

METHOD = Method(
    "ttsp",
    "prune candidates early by the untouched reward of their estimates",
    ttsnap,
    Pruning,
    negtome=True,
    verified=False,
)
