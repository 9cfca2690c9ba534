"""Live search: spends a budget on one prompt and returns the best image it found.

``from ttsnap import search`` gives this package, which can be called:
``search(pipe, prompt, reward=…, budget="400nfe")`` is :func:`ttsnap.search.api.search`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

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


class _Callable(ModuleType):
    """A package that is a function, too: Python has one name for both."""

    def __call__(self, *args: Any, **options: Any) -> SearchResult:
        from ttsnap.search.api import search

        return search(*args, **options)


sys.modules[__name__].__class__ = _Callable
