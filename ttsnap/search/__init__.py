"""Live search: spends a budget on one prompt and returns the best image it found."""

from ttsnap.search.best_of_n import best_of_n
from ttsnap.search.pruning import ttsnap_search
from ttsnap.search.result import Candidate, SearchResult
from ttsnap.search.task import Meter, Progress, Task

__all__ = [
    "Candidate",
    "Meter",
    "Progress",
    "SearchResult",
    "Task",
    "best_of_n",
    "ttsnap_search",
]
