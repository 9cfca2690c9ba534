"""Reward models. A kind of reward is one file and one line of `_KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ttsnap.errors import UserError
from ttsnap.rewards.base import Reward, TrainableReward

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttsnap.config import RewardSettings

__all__ = ["Judge", "Reward", "TrainableReward", "load_judge", "load_reward"]

Judge = Callable[["NDArray[np.uint8]", Sequence[str]], "NDArray[np.generic]"]
"""Takes images (B, H, W, 3) and B prompts, gives B numbers; it only looks at results."""

# Named, not imported: importing torch takes seconds.
_KINDS = {"clip": ("ttsnap.rewards.clip", "ClipReward")}


def load_reward(
    settings: RewardSettings, *, name: str, device: str = "cpu", checkpoint: Path | None = None
) -> TrainableReward:
    """Load the reward that ``settings`` describe.

    Args:
        settings: kind, path and revision.
        name: as in the config.
        device: as torch names it.
        checkpoint: folder that noise-aware finetuning wrote; none is the untouched reward.

    Raises:
        UserError: if model or checkpoint is missing or of another kind.
    """
    module, kind = _KINDS[settings.kind]
    loader = getattr(import_module(module), kind)
    return loader.load(settings.path, settings.revision, device, checkpoint, name=name)


def load_judge(place: str) -> Judge:
    """Import the function that ``place`` names as ``package.module:function``.

    Raises:
        UserError: if there is none.
    """
    module, _, function = place.partition(":")
    try:
        judge: Judge = getattr(import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"judge {place}: expected package.module:function ({error})") from None
    return judge
