"""Drafts: try many seeds in a cheap run, and run the best ones in full (arXiv 2607.04461)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ttsnap.errors import UserError
from ttsnap.schedule import DRAFT, Check, Schedule, check_steps
from ttsnap.searching.methods.base import Method, MethodOptions
from ttsnap.searching.methods.pruning import affordable, prune

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor

SHARE = 0.4  # of a run's steps that a draft takes


class Drafts(MethodOptions):
    """What a draft is, and who of them is run in full."""

    draft_steps: PositiveInt | None = Field(
        None, description=f"Steps of a draft; by default {SHARE} of the model's, to the nearest."
    )
    guided: bool = Field(
        False, description="Whether drafts pay for classifier-free guidance, if the model has any."
    )
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
    _make_drafts(run, options)
    schedule = options.checks(run.sampler.steps)
    if run.meter.costs.largest_n(run.meter.left, schedule) < 2:
        schedule = Schedule()
    prune(run, schedule, affordable(run, schedule))


def _make_drafts(run: Executor, options: Drafts) -> None:
    """Have drafts at hand; if nobody says of how many steps, of a number that the solver can take.

    Raises:
        UserError: it cannot take the number, or drafts would save nothing.
    """
    whole = run.sampler.steps
    wanted = options.draft_steps or max(1, round(SHARE * whole))
    if wanted >= whole and (options.guided or not run.sampler.guided):
        raise UserError(
            f"method draft: a draft of {wanted} steps costs no less than a run of {whole}; give "
            "fewer steps"
        )
    possible = [wanted] if options.draft_steps else range(wanted, whole)
    for steps in possible:
        try:
            run.make_drafts(steps, options.guided)
            break
        except UserError:
            if steps == possible[-1]:
                raise


METHOD = Method(
    "draft",
    "finish all in a cheap run, then the best of them in a full one",
    draft,
    Drafts,
    negtome=True,
)
