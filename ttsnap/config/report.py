"""What the report shows."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ttsnap.config._base import Settings


class Report(Settings):
    """What the report shows."""

    prompts: PositiveInt = Field(3, description="Test prompts shown as picture grids.")
    candidates: PositiveInt = Field(8, description="Candidates shown for each of them.")
