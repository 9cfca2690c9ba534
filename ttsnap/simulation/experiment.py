"""What is simulated: the rewards of a pool of trajectories, and what a candidate costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel
from ttsnap.simulation.source import RewardPair

TTSP, TTSNAP = "ttsp", "ttsnap"
JOINT = "joint"


@dataclass(frozen=True)
class Experiment:
    """One reward, or several, of the same trajectories, and the prices of a search by them.

    Attributes:
        rewards: by name; of the same trajectories.
        costs: prices a candidate.
        joint: whether pruning and picking go by all rewards together, or each by itself.
        weights: of the rewards' z-scores; None adds up ranks.
        scoring: what each reward costs where it searches alone; None is ``costs.reward`` for all.
    """

    rewards: Mapping[str, RewardPair]
    costs: CostModel
    joint: bool = False
    weights: Sequence[float] | None = None
    scoring: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, pair in self.rewards.items():
            if pair.base.shape[2] != self.costs.steps:
                raise UserError(
                    f"{name}: rewards at {pair.base.shape[2]} steps, but costs of "
                    f"{self.costs.steps}; expected as many"
                )
        if self.weights is None:
            return
        if len(self.weights) != len(self.rewards):
            raise UserError(
                f"{len(self.weights)} weights for {len(self.rewards)} rewards; expected one each"
            )
        if not (all(0 <= one < math.inf for one in self.weights) and sum(self.weights) > 0):
            raise UserError(
                f"weights {list(self.weights)}: expected finite ones, none negative, not all 0"
            )

    @property
    def prunes_by(self) -> str:
        """Name of what prunes: the reward's, or ``joint``."""
        return JOINT if self.joint else next(iter(self.rewards))

    @property
    def pruning(self) -> tuple[str, ...]:
        """The strategies that prune; TTSnap only where there are finetuned rewards."""
        finetuned = all(pair.finetuned_steps for pair in self.rewards.values())
        return (TTSP, TTSNAP) if finetuned else (TTSP,)

    @property
    def finals(self) -> list[np.ndarray]:
        """(P, I) of each reward."""
        return [pair.final for pair in self.rewards.values()]

    def parts(self) -> list[Experiment]:
        """Experiments that prune by one thing each."""
        if self.joint:
            return [self]
        prices = self.scoring or dict.fromkeys(self.rewards, self.costs.reward)
        return [
            Experiment({name: pair}, replace(self.costs, reward=prices[name]))
            for name, pair in self.rewards.items()
        ]

    def of(self, prompts: slice) -> Experiment:
        """The same on some of the prompts."""
        chosen = {name: pair.of(prompts) for name, pair in self.rewards.items()}
        if not all(len(pair.base) for pair in chosen.values()):
            raise UserError("no prompts are left of the source; choose others, or all")
        return replace(self, rewards=chosen)

    def sha256(self) -> str:
        """Of all rewards, which tells plans of different ones apart."""
        digest = hashlib.sha256()
        for name, pair in self.rewards.items():
            for values in (pair.base, pair.finetuned):
                digest.update(f"{name} {values.shape}".encode())
                digest.update(values.tobytes())
        return digest.hexdigest()

    def scores(self, strategy: str) -> list[np.ndarray]:
        """(P, I, S) of each reward, what prunes."""
        pairs = self.rewards.values()
        return [pair.finetuned if strategy == TTSNAP else pair.base for pair in pairs]

    def steps(self, strategy: str) -> list[int]:
        """Where a strategy may check: TTSp at any step scored, TTSnap where all are finetuned."""
        kinds = [
            pair.finetuned_steps if strategy == TTSNAP else pair.base_steps
            for pair in self.rewards.values()
        ]
        return sorted(set[int].intersection(*map(set, kinds)))
