"""Drafts: try many seeds in a cheap run, and run the best ones in full (arXiv 2607.04461)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ttsnap.schedule import DRAFT, Check, Schedule, check_steps
from ttsnap.searching.methods.base import Method
from ttsnap.searching.methods.pruning import Drafting, affordable, prune, scheduled

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Drafts(Drafting):
    """What a draft is, and who of them is run in full."""

    keep: float = Field(0.25, gt=0, le=1, description="Share of the drafts that are run in full.")
    prune: str = Field(
        "", description="Checks STEP:KEEP,… of the full runs, such as 4:0.5; empty prunes none."
    )

    def checks(self, steps: int) -> Schedule:
        """The schedule, of which drafts are the first check, for a sampler of as many steps.

        Raises:
            UserError: the checks are none, or too late.
        """
        later = Schedule.parse(self.prune)
        check_steps(later, steps)
        return Schedule((Check(DRAFT, self.keep), *later.checks))


def draft(run: Executor, options: Drafts) -> None:
    """Finish every seed in fewer steps and without guidance, then the best ones as they should be.

    Drafts before best-of-N are those of arXiv 2607.04461. A full run starts from the noise of its
    draft, so that the two share their layout. As many drafts are made as the budget affords with
    the full runs that follow; where that is one, which no draft could help, there is none.
    """
    schedule = scheduled(run, options)
    prune(run, schedule, affordable(run, schedule))


METHOD = Method(
    "draft",
    "finish all in a cheap run, then the best of them in a full one",
    draft,
    Drafts,
    negtome=True,
)
