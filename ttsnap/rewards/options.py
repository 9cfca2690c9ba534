"""What a kind of reward takes from its section of the config."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ttsnap.config import RewardSettings, Settings, explain
from ttsnap.errors import UserError

OptionsType = TypeVar("OptionsType", bound=Settings)


class NoOptions(Settings):
    """Of a kind that has none."""


def read_options(options: type[OptionsType], settings: RewardSettings, name: str) -> OptionsType:
    """Check ``settings.options`` of the reward ``name`` against what its kind knows.

    Raises:
        UserError: one line for each key that is unknown, missing or wrong.
    """
    try:
        return options.model_validate(settings.options)
    except ValidationError as error:
        place = f"rewards.{name}.options"
        lines = [f"{place}.{explain(detail, options)}" for detail in error.errors()]
        raise UserError("\n".join(lines)) from None


def required_path(settings: RewardSettings, name: str) -> str:
    """The path of a kind that has weights.

    Raises:
        UserError: there is none.
    """
    if settings.path is None:
        raise UserError(f"rewards.{name}.path: is missing; kind {settings.kind} needs one")
    return settings.path


def refuse_weights(settings: RewardSettings, name: str, checkpoint: Path | None) -> None:
    """Of a kind that has none, neither its own nor finetuned ones.

    Raises:
        UserError: some are given.
    """
    if settings.path is not None:
        raise UserError(f"rewards.{name}.path: must be null; kind {settings.kind} has no weights")
    if checkpoint is not None:
        raise UserError(f"{checkpoint}: reward {name} cannot be finetuned")
