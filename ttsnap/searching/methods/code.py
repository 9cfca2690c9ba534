"""CoDe: the best of several branches, block of steps after block of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ttsnap.searching.methods.base import Method, MethodOptions
from ttsnap.searching.methods.beam import Fork, search

if TYPE_CHECKING:
    from ttsnap.searching.executor import Executor


class Code(MethodOptions):
    """Controlled denoising (arXiv 2502.00968)."""

    noises: PositiveInt = Field(5, description="Branches of every block.")
    block: PositiveInt = Field(5, description="Steps of a block.")


def code(run: Executor, options: Code) -> None:
    """Take the best of several branches after every block of steps (arXiv 2502.00968).

    From the state at which a block begins, several branches are run through it, each with noises of
    its own. The one whose estimate has the highest reward begins the next block. Blocks of one
    step are svdd at α = 0; one block of all steps is best-of-N from one initial noise. Where the
    budget does not pay for another trajectory with as many branches, the largest number that it
    does pay for is run.

    Read: the abstract and the authors' repository, anujinho/code. What differs: the branches of the
    last block are compared by their final images; text to image only, without a reference image.
    """
    search(run, blocks(run.noisy, options.block, run.last), 1, options.noises)


def blocks(noisy: list[int], size: int, last: int) -> list[Fork]:
    """Where branches of each block of ``size`` steps part, and where they are compared.

    Args:
        noisy: steps whose noise has an effect; a block without any does not branch.
        size: in steps.
        last: step, at whose final images the last block ends.
    """
    parts = [[step for step in noisy if step // size == block] for block in range(last // size + 1)]
    return [
        Fork(part[0], min((block + 1) * size, last)) for block, part in enumerate(parts) if part
    ]


METHOD = Method(
    "code",
    "after every block of steps follow the best of several branches",
    code,
    Code,
    needs_noise=True,
)
