"""The prompts of each split, and the trajectories sampled for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from ttsnap.config._base import Settings, StepIndex, Text
from ttsnap.config.narf import TRAINED

SEEN = [*range(2, 9)]
"""Steps of the embedded world whose estimates show something while there is something to save."""


def _without_defaults(schema: dict[str, Any]) -> None:
    del schema["required"]
    for key in schema["properties"].values():
        key.pop("default", None)


class SplitSettings(Settings):
    """Prompts [start, stop) of a file, and the trajectories sampled for them."""

    # Splits completes what is left out, split by split: no key is required, none has one default.
    model_config = ConfigDict(json_schema_extra=_without_defaults)

    file: Text = Field("config/prompts/shapes.json", description="JSON file of prompts.")
    start: int = Field(0, ge=0, description="First prompt of the split, counted from 0.")
    stop: PositiveInt = Field(description="One past the last prompt of the split.")
    images: PositiveInt = Field(description="Trajectories (noise seeds) per prompt.")
    steps: list[StepIndex] | None = Field(
        None,
        description="Step indices stored, beside the last, which always is; null stores all.",
    )
    prompts_per_job: PositiveInt = Field(description="Prompts per job, which writes one shard.")

    def stored(self, steps: int) -> list[int]:
        """Step indices stored of trajectories of ``steps`` steps, the last always among them."""
        last = steps - 1
        return list(range(steps)) if self.steps is None else sorted({*self.steps, last})


class Splits(Settings):
    """Rewards learn on train, schedules are chosen on val, everything is reported on test."""

    train: SplitSettings = SplitSettings(
        start=0, stop=1000, images=2, steps=TRAINED, prompts_per_job=500
    )
    val: SplitSettings = SplitSettings(
        start=4000, stop=4040, images=32, steps=SEEN, prompts_per_job=20
    )
    test: SplitSettings = SplitSettings(
        start=5000, stop=5064, images=32, steps=SEEN, prompts_per_job=32
    )

    @model_validator(mode="before")
    @classmethod
    def complete(cls, given: Any) -> Any:
        """Fill what a split leaves out with that split's own defaults."""
        if not isinstance(given, Mapping):
            return given
        defaults = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {
            name: defaults.get(name, {}) | dict(split) if isinstance(split, Mapping) else split
            for name, split in given.items()
        }
