"""Live search: spends a budget on one prompt and returns the best image it found."""

from __future__ import annotations

from ttsnap.searching.methods import METHODS, Method, run_method
from ttsnap.searching.result import Candidate, Round, SearchResult
from ttsnap.searching.task import Meter, Progress, Task

__all__ = [
    "METHODS",
    "Candidate",
    "Meter",
    "Method",
    "Progress",
    "Round",
    "SearchResult",
    "Task",
    "run_method",
]
