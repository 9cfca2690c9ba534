"""Live search: spends a budget on one prompt and returns the best image it found.

``searcher`` builds a search, ``executor`` does its work, ``ledger`` keeps its books, ``methods``
decide what is tried; ``api`` and ``cli`` only parse and write. Nothing here reports on runs or
simulates. Importing this package imports neither torch nor diffusers.
"""

from __future__ import annotations

from ttsnap.searching.methods import METHODS, Method
from ttsnap.searching.result import Candidate, Round, SearchResult
from ttsnap.searching.task import Progress

__all__ = ["METHODS", "Candidate", "Method", "Progress", "Round", "SearchResult"]
