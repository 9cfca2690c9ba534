"""What a search method is. Methods import neither torch nor diffusers: a list names them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ttsnap.config import Settings, StepIndex
from ttsnap.schedule import Schedule

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor
    from ttsnap.searching.noise import Move

Steps = Annotated[list[StepIndex], Field(min_length=1)]


class MethodOptions(Settings):
    """Settings of a method; without any, its size follows from the budget alone."""

    def move(self) -> Move | None:
        """How the method moves away from a noise; None if it does not."""
        return None

    def checks(self, steps: int) -> Schedule:
        """The schedule that is given, for a sampler of as many steps; without any it is empty.

        Raises:
            UserError: it is none, or checks too late.
        """
        return Schedule()


@dataclass(frozen=True)
class Method:
    """A search method.

    Attributes:
        name: on the command line.
        summary: one line on what it does.
        search: the method itself, which has an executor do what it takes.
        options: its settings, with published defaults.
        needs_noise: whether it searches the noise of the steps, so that a sampler without any is
            given some.
        negtome: whether its candidates are pushed apart where ``sampling.negtome`` asks for that.
        verified: whether NARF checkpoints may look at early steps in place of the rewards.
    """

    name: str
    summary: str
    search: Callable[[Executor, Any], None]
    options: type[MethodOptions] = MethodOptions
    needs_noise: bool = False
    negtome: bool = False
    verified: bool = True

    @property
    def prunes(self) -> bool:
        """Whether it runs a pruning schedule, which a plan can choose."""
        return "schedule" in self.options.model_fields

    @property
    def looks_by_narf(self) -> bool:
        """Whether it looks at early steps with NARF checkpoints unless told otherwise."""
        return self.prunes and self.verified
