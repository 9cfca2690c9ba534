"""What all sections are made of: their base class, and the kinds of values they share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat

ROOT = Path(__file__).parents[2]


def installed(path: str) -> str:
    """``path``, or its place in the package: what ships with it is found from any folder."""
    inside = ROOT / path
    ships = path.startswith("ttsnap/") and not Path(path).exists() and inside.exists()
    return str(inside) if ships else path


def within(path: str) -> str:
    """The reverse: the place in the package, on any machine, of what ships with it."""
    inside = Path(path).is_relative_to(ROOT / "ttsnap")
    return Path(path).relative_to(ROOT).as_posix() if inside else path


Split = Literal["train", "val", "test"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Text = Annotated[str, Field(min_length=1)]
Source = Annotated[Text, AfterValidator(installed)]
StepIndex = Annotated[int, Field(ge=0)]
Keep = Annotated[float, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(gt=0, multiple_of=4)]
Price = Annotated[float, Field(ge=0)]
Budgets = Annotated[list[PositiveFloat], Field(min_length=1)]
Accounting = Literal["corrected", "ttsnap"]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")]

HUB_ID = r"\w[\w.-]*/[\w.-]+"
"""Pattern of a hub id, ORG/NAME."""

COMMIT = r"[0-9a-f]{40}"
"""Pattern of what pins a hub id."""

FILE = ".safetensors"
"""Suffix of the files of weights that are read of models and their LoRAs."""

GGUF = ".gguf"
"""Suffix of the only other ones: denoisers with quantized weights."""

FILES = (FILE, GGUF)


def is_hub_id(path: str) -> bool:
    """Whether a path is that of a repository, and of nothing on this machine."""
    file = Path(path)
    return bool(re.fullmatch(HUB_ID, path)) and file.suffix not in FILES and not file.exists()


class Settings(BaseModel):
    """Base of all sections: immutable, no unknown keys, no conversions ("12" is not 12)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )
