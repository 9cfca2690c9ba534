"""Functions as rewards, and what a search asks of the rewards that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from ttsnap.errors import UserError
from ttsnap.rewards.scores import as_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttsnap.rewards.base import Reward

Scorer = Callable[["NDArray[np.uint8]", Sequence[str]], object]
"""Takes images (B, H, W, 3) and B prompts, gives B numbers, larger is better, NaN where it fails.

What it may return is what :func:`ttsnap.rewards.scores.as_scores` takes.
"""


class FunctionReward:
    """A function as a `Reward` of the function's name; its work is not charged."""

    scale = "that of the function"

    def __init__(self, function: Scorer) -> None:
        name = getattr(function, "__name__", "reward")
        self.name = "reward" if name == "<lambda>" else name
        self.function = function

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`.

        Raises:
            UserError: the function returned something else than scores.
        """
        return as_scores(self.function(images, prompts), len(images), self.name)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; unknown, and taken as none."""
        return 0.0


class Renamed:
    """A `Reward` under another name."""

    def __init__(self, reward: Reward, name: str) -> None:
        self.reward = reward
        self.name = name
        self.scale = reward.scale

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        return self.reward.score(images, prompts)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`."""
        return self.reward.tflops(height, width)


def searchable(rewards: Sequence[Reward]) -> tuple[Reward, ...]:
    """The same rewards, fit to search with: each has a name of its own.

    Where names repeat, later ones are called ``NAME-2``, ``NAME-3``, ….

    Raises:
        UserError: the scores of one compare only what is scored in the same call.
    """
    taken = {reward.name for reward in rewards}
    named: list[Reward] = []
    for reward in rewards:
        if getattr(reward, "relative", False):
            raise UserError(
                f"reward {reward.name}: ranks images that are scored together, and a search scores "
                "its candidates in batches; give its rewards one by one, as A,B, which ranks all "
                "candidates by each, or sum their z-scores"
            )
        if reward.name not in {one.name for one in named}:
            named.append(reward)
            continue
        free = (f"{reward.name}-{number}" for number in count(2))
        name = next(name for name in free if name not in taken)
        taken.add(name)
        named.append(Renamed(reward, name))
    return tuple(named)
