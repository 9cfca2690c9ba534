"""Several rewards as one: the weighted sum of their z-scores, or of their ranks.

A z-score is (score - mean) / std with a mean and a standard deviation that the config gives, so the
sum means the same wherever it is computed. A rank is a place among the images of the same prompt
that are scored in the same call, 1 for the worst, ties shared: it says nothing about other prompts
or other calls. Rank sums are fit to choose among images scored together, as the joint pruning of
arXiv 2511.22242 does, not to compare runs, to train, or to search, where candidates are scored in
batches: a search that is given several rewards ranks all its candidates itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from ttsnap.config import Name, RewardSettings, Settings
from ttsnap.rewards.base import Reward, TrainableReward
from ttsnap.rewards.options import read_options, refuse_weights
from ttsnap.rewards.scores import scores_of

By = Literal["zscore", "rank"]


class MemberSettings(RewardSettings):
    """A reward of an ensemble."""

    weight: float = Field(1.0, description="Its z-score or rank is multiplied by this.")
    mean: float = Field(0.0, description="Of its scores, for zscore.")
    std: PositiveFloat = Field(1.0, description="Standard deviation of its scores, for zscore.")


class EnsembleOptions(Settings):
    rewards: Annotated[dict[Name, MemberSettings], Field(min_length=1)] = Field(
        description="By the name of another reward of the config its weight, or a section "
        "{weight, mean, std}.",
    )
    by: By = Field(
        "zscore",
        description="zscore or rank: what is summed; ranks compare images scored together, and a "
        "search does not take them.",
    )


class Member(NamedTuple):
    """A reward of an ensemble, and how it counts."""

    reward: Reward
    weight: float = 1.0
    mean: float = 0.0
    std: float = 1.0


class Ensemble:
    """A `Reward` over other rewards; where one of them fails (NaN), it fails too."""

    Options = EnsembleOptions

    def __init__(self, members: Sequence[Member], by: By = "zscore", name: str = "ensemble"):
        self.name = name
        self.by = by
        self.relative = by == "rank"
        self.members = list(members)
        parts = " + ".join(f"{member.weight:g} {member.reward.name}" for member in members)
        self.scale = (
            f"z-scores, {parts}"
            if by == "zscore"
            else f"ranks among a prompt's images scored together, {parts}"
        )

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "ensemble",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Ensemble:
        """Load all members; the result can be trained if it sums z-scores of rewards that can.

        Raises:
            UserError: a member cannot be loaded, or a checkpoint is given for what has none.
        """
        from ttsnap.rewards import load_reward
        from ttsnap.rewards.checkpoint import load_checkpoint

        options = read_options(EnsembleOptions, settings, name)
        refuse_weights(settings, name, None)
        members = [
            Member(load_reward(one, name=key, device=device), one.weight, one.mean, one.std)
            for key, one in options.rewards.items()
        ]
        if options.by == "rank" or not all(
            isinstance(member.reward, TrainableReward) for member in members
        ):
            refuse_weights(settings, name, checkpoint)
            return Ensemble(members, options.by, name)
        trainable = TrainableEnsemble(members, "zscore", name)
        if checkpoint is not None:
            load_checkpoint(trainable.module, checkpoint)
        return trainable

    def score(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """See `Reward.score`."""
        scores = np.stack([scores_of(member.reward, images, prompts) for member in self.members])
        weights = np.array([member.weight for member in self.members])
        if self.by == "rank":
            return (weights @ ranks(scores, prompts)).astype(np.float32)
        mean = np.array([member.mean for member in self.members])[:, None]
        std = np.array([member.std for member in self.members])[:, None]
        return (weights @ ((scores - mean) / std)).astype(np.float32)

    def tflops(self, height: int, width: int) -> float:
        """See `Reward.tflops`; the sum over the members."""
        return sum(member.reward.tflops(height, width) for member in self.members)


class TrainableEnsemble(Ensemble):
    """A `TrainableReward` that sums z-scores of trainable rewards.

    Pixels and texts of an image are those of its members, laid end to end.
    """

    def __init__(
        self, members: Sequence[Member], by: By = "zscore", name: str = "ensemble"
    ) -> None:
        super().__init__(members, by, name)
        self.parts: list[Any] = [member.reward for member in members]
        self.module = torch.nn.ModuleList([part.module for part in self.parts])
        self.tower = "|".join(
            rf"{number}\.(?:{part.tower})" for number, part in enumerate(self.parts)
        )
        self._pixel_shapes: list[torch.Size] = []
        self._text_shapes: list[torch.Size] = []

    def pixel_values(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.pixel_values`."""
        parts = [part.pixel_values(images) for part in self.parts]
        self._pixel_shapes = [part.shape[1:] for part in parts]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """See `TrainableReward.encode_texts`."""
        parts = [part.encode_texts(texts) for part in self.parts]
        self._text_shapes = [part.shape[1:] for part in parts]
        return torch.cat([part.reshape(len(texts), -1).float() for part in parts], dim=1)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        total = torch.zeros(len(pixel_values), device=pixel_values.device)
        pixels = _unpack(pixel_values, self._pixel_shapes)
        rows = _unpack(texts, self._text_shapes)
        for member, part, image, text in zip(self.members, self.parts, pixels, rows, strict=True):
            score = part.forward(image, text)
            total = total + member.weight * (score - member.mean) / member.std
        return total


def ranks(scores: NDArray[np.floating[Any]], prompts: Sequence[str]) -> NDArray[np.float64]:
    """Places of scores (K, B) among those of the same row and prompt.

    Returns:
        (K, B), 1 for the lowest, ties at their mean place; NaN for an image with a NaN in any row,
        which the others are ranked without.
    """
    from scipy.stats import rankdata

    places = np.full(scores.shape, np.nan)
    whole = ~np.isnan(scores).any(axis=0)
    labels = np.unique(np.asarray(prompts), return_inverse=True)[1]
    for label in range(labels.max() + 1):
        among = whole & (labels == label)
        places[:, among] = rankdata(scores[:, among], axis=1)
    return places


def _unpack(rows: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    parts = rows.split([shape.numel() for shape in shapes], dim=1)
    return [part.reshape(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]
