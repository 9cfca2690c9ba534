"""What a search is given, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttsnap.diffusion.sampler import Conditioning, Sampler
    from ttsnap.rewards.base import Reward
    from ttsnap.schedule import CostModel
    from ttsnap.searching.methods.base import MethodOptions
    from ttsnap.searching.record import Generator


@dataclass(frozen=True)
class Progress:
    """Where a search stands, after every denoiser evaluation of a batch and after every look.

    Attributes:
        step: step index just reached.
        alive: candidates not pruned.
        n: candidates started.
        best: highest score of a final image or, before the first, at the latest look; None before.
        spent: so far, in ``unit``.
        budget: allowed, in the same.
        unit: such as TFLOPs.
        round: of the method (a restart, a wave of candidates), counted from 1.
        message: what the method is doing, in a few words.
    """

    step: int
    alive: int
    n: int
    best: float | None
    spent: float
    budget: float
    unit: str
    round: int
    message: str


@dataclass(frozen=True)
class SearchTask:
    """One prompt to be searched by one method, with which models and for how much.

    Attributes:
        method: its name.
        options: of the method.
        sampler: draws the images.
        conditioning: the encoded prompt, its only row.
        prompt: its text, for the rewards.
        negative_prompt: its negative, for the records.
        rewards: score final images and pick the winner; several by the sum of their ranks.
        names: of the rewards, no two alike.
        verifiers: step index -> what looks at the estimates of that step in place of the rewards,
            in their order: their NARF checkpoints.
        costs: prices; ``reward`` is that of one image by all rewards. NFE are prices of 1 an
            evaluation and 0 for all else.
        budget: what the search may spend, in the unit of the costs.
        seed_of: noise seed of candidate 0, 1, …
        generator: sampler and model, for the records.
        model: name of the model, likewise.
        batch_size: candidates denoised at once; changes images by rounding at most.
        keep_finals: whether the result keeps every final image.
        observe: called with the :class:`Progress`.
        cancelled: asked before every batch. Once it says yes, the best so far is returned; if no
            image is finished by then, one is.
    """

    method: str
    options: MethodOptions
    sampler: Sampler
    conditioning: Conditioning
    prompt: str
    negative_prompt: str
    rewards: tuple[Reward, ...]
    names: tuple[str, ...]
    verifiers: Mapping[int, tuple[Reward, ...]]
    costs: CostModel
    budget: float
    seed_of: Callable[[int], int]
    generator: Generator
    model: str
    batch_size: int
    keep_finals: bool
    observe: Callable[[Progress], None]
    cancelled: Callable[[], bool]
