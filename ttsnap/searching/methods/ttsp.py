"""TTSp (arXiv 2511.22242): pruning by the untouched reward."""

from __future__ import annotations

from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.pruning import Pruning
from ttsnap.searching.methods.ttsnap import ttsnap

METHOD = Method(
    "ttsp", "the same by the untouched reward", ttsnap, Pruning, negtome=True, verified=False
)
