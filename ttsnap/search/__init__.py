"""Live search: spends a budget on one prompt and returns the best image it found."""

from ttsnap.search.methods import METHODS, Method, run_method
from ttsnap.search.result import Candidate, Round, SearchResult
from ttsnap.search.task import Meter, Progress, Task

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
