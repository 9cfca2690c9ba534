"""Verifiers: checkpoints of one reward that share all weights which finetuning left untouched.

The reward is loaded once. Its network has the weights of one checkpoint at a time; what another one
changes waits in main memory until that one scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ttsnap.errors import UserError
from ttsnap.rewards import load_reward
from ttsnap.rewards.base import Reward, TrainableReward
from ttsnap.rewards.checkpoint import Changes, read_changes

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings


def load_verifiers(
    settings: RewardSettings,
    checkpoints: Mapping[int, Path | None],
    *,
    name: str,
    device: str = "cpu",
) -> dict[int, Reward]:
    """Load several checkpoints of one reward; each scores as if it were loaded by itself.

    Args:
        settings: of the reward.
        checkpoints: step index -> folder that noise-aware finetuning wrote; None is the untouched
            reward.
        name: as in the config.
        device: as torch names it, or auto.

    Raises:
        UserError: as :func:`ttsnap.rewards.load_reward`.
    """
    shared = SharedReward(settings, name=name, device=device)
    return {step: shared.verifier(folder) for step, folder in checkpoints.items()}


class SharedReward:
    """A reward that is loaded once, for any number of its checkpoints.

    Args:
        settings, name, device: as of :func:`load_verifiers`.
    """

    def __init__(self, settings: RewardSettings, *, name: str, device: str = "cpu") -> None:
        self.reward = load_reward(settings, name=name, device=device)
        self._untouched: dict[str, torch.Tensor] = {}
        self._present: Changes = {}

    def verifier(self, checkpoint: Path | None) -> Reward:
        """What scores with the weights of a checkpoint; None is the untouched reward.

        Raises:
            UserError: if it is not a checkpoint of this reward.
        """
        return Verifier(self, {} if checkpoint is None else self._read(checkpoint))

    def _read(self, checkpoint: Path) -> Changes:
        if not isinstance(self.reward, TrainableReward):
            raise UserError(f"{checkpoint}: reward {self.reward.name} cannot be finetuned")
        self.take({})
        changes = read_changes(self.reward.module, checkpoint)
        for name in changes.keys() - self._untouched.keys():
            self._untouched[name] = self.reward.module.get_parameter(name).data.cpu()
        return changes

    @torch.no_grad()
    def take(self, changes: Changes) -> None:
        """Give the network the weights of a checkpoint, in place of those it has."""
        if changes is self._present:
            return
        for name in {*self._present, *changes}:
            weight = self.reward.module.get_parameter(name)  # type: ignore[attr-defined]
            new = self._untouched[name]
            weight.data = (changes[name](new) if name in changes else new).to(weight.device)
        self._present = changes


class Verifier:
    """A `Reward`: the shared one with the weights of a checkpoint."""

    def __init__(self, shared: SharedReward, changes: Changes) -> None:
        self.name, self.scale = shared.reward.name, shared.reward.scale
        self.relative = getattr(shared.reward, "relative", False)
        self._shared, self._changes = shared, changes

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        self._shared.take(self._changes)
        return self._shared.reward.score(images, prompts)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`."""
        return self._shared.reward.tflops(height, width)
