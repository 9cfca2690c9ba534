"""Things that a list names and nobody imports before they are used: torch takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A class or function by its place; those who list such things add what the list shows.

    Attributes:
        module: that has it.
        attribute: its name there.
    """

    module: str
    attribute: str

    def load(self) -> Any:
        """Import it."""
        return getattr(import_module(self.module), self.attribute)
