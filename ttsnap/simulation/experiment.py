"""What is simulated: the rewards of a pool of trajectories, and what a candidate costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from ttsnap.errors import UserError
from ttsnap.schedule import AT_PREVIEWS, DRAFT, CostModel
from ttsnap.simulation.source import RewardPair, load_pair
from ttsnap.store.receipts import read_receipt
from ttsnap.store.tensors import read_drafts

if TYPE_CHECKING:
    import pandas as pd

TTSP, TTSNAP, BEST = "ttsp", "ttsnap", "best"
DRAFTS = "draft"
"""A strategy that looks at drafts and nothing else; ``draft+ttsp`` also checks, as TTSp does."""

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
        previews: the same rewards where checks see previews, which then are strategies of their
            own; the others check at the price of a decode.
        drafts: (P, I), what the same rewards say of a draft of each trajectory. Looking at them,
            at the price of ``costs.draft``, are strategies of their own.
    """

    rewards: Mapping[str, RewardPair]
    costs: CostModel
    joint: bool = False
    weights: Sequence[float] | None = None
    scoring: Mapping[str, float] | None = None
    previews: Mapping[str, RewardPair] = field(default_factory=dict)
    drafts: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_run(
        cls,
        reward: str,
        base: Sequence[Path],
        finetuned: Sequence[Path],
        costs: CostModel,
        drafts: Sequence[Path] = (),
    ) -> Self:
        """From receipts of what a run has found of a reward.

        Args:
            reward: its name.
            base, finetuned: of tensors where checks see decodes, then previews if they do.
            costs: of all but drafts.
            drafts: of their rewards, block after block.
        """
        decoded, *previewed = (
            {reward: load_pair(one.with_suffix(".zarr"), other.with_suffix(".zarr"), costs.steps)}
            for one, other in zip(base, finetuned, strict=True)
        )
        drafted = {}
        if drafts:
            drafted = {reward: read_drafts(drafts)}
            costs = replace(costs, draft=read_receipt(drafts[0])["evaluations"])
        return cls(decoded, costs, previews=previewed[0] if previewed else {}, drafts=drafted)

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
        named = [
            f"{strategy}{look}"
            for look, pairs in (("", self.rewards), (AT_PREVIEWS, self.previews))
            if pairs
            for strategy in (TTSP, TTSNAP)
            if strategy == TTSP or all(pair.finetuned_steps for pair in pairs.values())
        ]
        if self.drafts:
            after = [name for name in named if not name.endswith(AT_PREVIEWS)]
            named += [DRAFTS, *(f"{DRAFTS}+{name}" for name in after)]
        return tuple(named)

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those that prune, and the best of them by the plan where they look in several ways."""
        return (*self.pruning, BEST) if self.several else self.pruning

    @property
    def several(self) -> bool:
        """Whether candidates can be looked at in more than one way."""
        return bool(self.previews or self.drafts)

    def look_of(self, strategy: str) -> str:
        """How a strategy sees estimates, ``decode`` or ``preview``; empty where it varies or sees
        none."""
        if strategy not in self.pruning or strategy == DRAFTS:
            return ""
        return "decode" if self.costs_of(strategy).preview is None else "preview"

    def costs_of(self, strategy: str) -> CostModel:
        """What a candidate costs a strategy."""
        if not self.previews or strategy.endswith(AT_PREVIEWS):
            return self.costs
        return replace(self.costs, preview=None)

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
            Experiment(
                {name: pair},
                replace(self.costs, reward=prices[name]),
                previews={name: self.previews[name]} if self.previews else {},
                drafts={name: self.drafts[name]} if self.drafts else {},
            )
            for name, pair in self.rewards.items()
        ]

    def of(self, prompts: slice) -> Experiment:
        """The same on some of the prompts."""
        chosen = {name: pair.of(prompts) for name, pair in self.rewards.items()}
        if not all(len(pair.base) for pair in chosen.values()):
            raise UserError("no prompts are left of the source; choose others, or all")
        previews = {name: pair.of(prompts) for name, pair in self.previews.items()}
        drafts = {name: values[prompts] for name, values in self.drafts.items()}
        return replace(self, rewards=chosen, previews=previews, drafts=drafts)

    def sha256(self) -> str:
        """Of all rewards, which tells plans of different ones apart."""
        digest = hashlib.sha256()
        for name, pair in (*self.rewards.items(), *self.previews.items()):
            for values in (pair.base, pair.finetuned):
                digest.update(f"{name} {values.shape}".encode())
                digest.update(values.tobytes())
        for name, values in self.drafts.items():
            digest.update(f"{name} drafts".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def scores(self, strategy: str) -> list[np.ndarray]:
        """(P, I, S) of each reward, what prunes; where drafts are seen, they follow as step S.

        So the last of them is at index ``DRAFT``, too.
        """
        scores = self.estimates(strategy)
        if not strategy.startswith(DRAFTS):
            return scores
        return [
            np.concatenate([values, drafts[:, :, None].astype(values.dtype)], axis=2)
            for values, drafts in zip(scores, self.drafts.values(), strict=True)
        ]

    def estimates(self, strategy: str) -> list[np.ndarray]:
        """(P, I, S) of each reward, what a strategy sees of the Tweedie estimates."""
        return [
            pair.finetuned if TTSNAP in strategy else pair.base for pair in self._pairs(strategy)
        ]

    def steps(self, strategy: str) -> list[int]:
        """Where a strategy may check: TTSp at any step scored, TTSnap where all are finetuned."""
        if strategy == DRAFTS:
            return [DRAFT]
        kinds = [
            pair.finetuned_steps if TTSNAP in strategy else pair.base_steps
            for pair in self._pairs(strategy)
        ]
        scored = sorted(set[int].intersection(*map(set, kinds)))
        return [DRAFT, *scored] if strategy.startswith(DRAFTS) else scored

    def _pairs(self, strategy: str) -> Iterable[RewardPair]:
        looks = self.previews if strategy.endswith(AT_PREVIEWS) else self.rewards
        return looks.values()


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A table of strategies and looks with the names of plans as its strategies."""
    both = {"decode", "preview"} <= set(table["look"])
    suffix = table["look"].map({"preview": AT_PREVIEWS}).fillna("") if both else ""
    return table.assign(strategy=table["strategy"] + suffix)
