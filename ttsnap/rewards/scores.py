"""What a reward returned, checked where it comes in: those of others return all kinds of things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttsnap.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ttsnap.rewards.base import Reward


def scores_of(
    reward: Reward, images: NDArray[np.uint8], prompts: Sequence[str]
) -> NDArray[np.float32]:
    """Score images (B, H, W, 3) with B prompts: (B,), NaN where the reward failed.

    Raises:
        UserError: see :func:`as_scores`.
    """
    return as_scores(reward.score(images, prompts), len(images), reward.name)


def as_scores(returned: object, count: int, name: str) -> NDArray[np.float32]:
    """What reward ``name`` returned for ``count`` images, as (count,).

    Numbers of any type are taken as an array, a list or a tensor, also one with gradients or on a
    GPU, of shape (count,) or (count, 1), or as a single number for a single image.

    Raises:
        UserError: it is something else, or one is infinite; one line says what came and what was
            expected. NaN is fine: the image failed to be scored.
    """
    try:
        values = np.asarray(_plain(returned))
    except ValueError:  # nested lists of unequal length
        values = np.array(None)
    shapes = [(count,), (count, 1)] + [()] * (count == 1)
    if values.dtype.kind not in "biuf" or values.shape not in shapes:
        raise UserError(
            f"reward {name}: returned {_words(returned, values)}, expected {count} "
            f"number{'s' * (count > 1)}, shape ({count},)"
        )
    with np.errstate(over="ignore"):
        scores = values.reshape(count).astype(np.float32)
    if (infinite := np.flatnonzero(np.isinf(scores))).size:
        raise UserError(
            f"reward {name}: returned {values.reshape(count)[infinite[0]]} for image "
            f"{infinite[0]} of {count}, expected finite numbers, or NaN where an image fails"
        )
    return scores


def _plain(returned: Any) -> Any:
    """Tensors of torch, which may not even be imported, as arrays; others as they are."""
    if hasattr(returned, "detach"):
        return returned.detach().cpu().double().numpy()
    if isinstance(returned, list | tuple):
        return [_plain(one) for one in returned]
    return returned


def _words(returned: object, values: NDArray[Any]) -> str:
    """How a message calls what came."""
    kind = type(returned).__name__
    if returned is None:
        return "None"
    if values.dtype.kind in "biuf":
        return f"{kind} of shape {values.shape}"
    line = " ".join(repr(returned).split())
    return f"{kind} {line}" if len(line) <= 60 else f"{kind} {line[:59]}…"
