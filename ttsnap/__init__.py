"""Better images for the same compute: prune bad noise seeds early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttsnap.searching.api import search
    from ttsnap.searching.output import save

__all__ = ["save", "search"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what a search needs only once it is asked for."""
    if name == "search":
        from ttsnap.searching.api import search

        return search
    if name == "save":
        from ttsnap.searching.output import save

        return save
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
