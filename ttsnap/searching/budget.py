"""Budgets as they are written: ``2000tflops``, ``400nfe``, ``60s``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Literal, Self

from ttsnap.errors import UserError

WHOLE_IMAGES = 8
"""What a search may cost by default, in images finished from start to end."""

Unit = Literal["TFLOPs", "NFE", "seconds"]

SUFFIXES: dict[str, Unit] = {"tflops": "TFLOPs", "nfe": "NFE", "s": "seconds"}
"""What a budget may end with -> the unit it is in."""


@dataclass(frozen=True)
class Budget:
    """What one search may spend.

    Attributes:
        value: how much, above 0.
        unit: TFLOPs (2 per multiply-add), NFE (denoiser evaluations, guidance included), or seconds
            of wall clock; see ``Unit``.
    """

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str, default: Unit = "TFLOPs") -> Self:
        """Read ``2000tflops``, ``400nfe`` or ``60s``; a bare number is in ``default``.

        Raises:
            UserError: it is none of these, or not a positive number.
        """
        lowered = text.strip().lower()
        number = lowered.rstrip(ascii_lowercase)
        suffix = lowered.removeprefix(number)
        unit = SUFFIXES.get(suffix) if suffix else default
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if unit is None or not 0 < value < math.inf:
            raise UserError(
                f"budget {text!r}: expected a number above 0 with tflops, nfe or s, as in "
                f"2000tflops, 400nfe or 60s (a bare number is in {default})"
            )
        return cls(value, unit)

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"
