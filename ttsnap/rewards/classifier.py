"""The probability that an image classifier gives to a class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field

from ttsnap.config import Text
from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.checkpoint import load_checkpoint
from ttsnap.rewards.model import ModelOptions, ModelReward
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Preparation
from ttsnap.rewards.stock import load_model, load_processor

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings


class ClassifierOptions(ModelOptions):
    label: Text | None = Field(
        None,
        description="Name of the class, as the model's config has it or one of its synonyms "
        "between commas; null: the longest name of a class that the prompt holds as whole words.",
    )


class ClassifierReward(ModelReward):
    """A `TrainableReward` over an image classifier of transformers; its text rows are classes."""

    Options = ClassifierOptions
    tower = r"\w+"

    def __init__(
        self, model: Any, prepare: Preparation, name: str = "classifier", label: str | None = None
    ) -> None:
        what = f"the class {label}" if label else "the class that the prompt names"
        super().__init__(name, f"probability of {what}, 0 to 1", model, prepare)
        self.classes = names_of_classes(model.config.id2label)
        self.label = label

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "classifier",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load classifier and image processor from ``settings.path``, in float32.

        Raises:
            UserError: if one of them is missing, or the label is none of its classes.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        options = read_options(ClassifierOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        model = load_model(AutoModelForImageClassification, path, revision)
        processor = load_processor(AutoImageProcessor, path, revision, backend="pil")
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        model = model.to(torch_device(device))
        reward = cls(model, Preparation.of(processor, path), name, options.label)
        if options.label is not None:
            reward.encode_texts([""])
        return reward.at(options)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        with self.products():
            logits = self.module(pixel_values=pixel_values).logits
        probabilities = logits.float().softmax(-1)
        return probabilities.gather(1, texts.long()[:, None]).squeeze(1)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        """Index (B,) int64 of the class of each text."""
        return torch.tensor([self._class_of(text) for text in texts], device=self.device)

    def _blank(self) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.int64, device=self.device)

    def _class_of(self, text: str) -> int:
        if self.label is not None:
            place, found = f"rewards.{self.name}.options.label", _normal(self.label)
            indices = self.classes.get(found, [])
        else:
            place, words = f"reward {self.name}: prompt", f" {_normal(text)} "
            named = [known for known in self.classes if f" {known} " in words]
            found = max(named, key=len, default="")
            indices = self.classes.get(found, [])
        if len(indices) == 1:
            return indices[0]
        shown = self.label or text
        if not indices:
            raise UserError(f"{place} {shown!r} names none of the {self._count} classes")
        raise UserError(f"{place} {shown!r}: {found} is the name of classes {indices}")

    @property
    def _count(self) -> int:
        return self.module.config.num_labels


def names_of_classes(labels: dict[int, str]) -> dict[str, list[int]]:
    """The classes by each of their names: labels such as ``tench, Tinca tinca`` hold several."""
    names: dict[str, list[int]] = {}
    for index, label in labels.items():
        for name in dict.fromkeys(map(_normal, [label, *label.split(",")])):
            names.setdefault(name, []).append(index)
    return names


def _normal(text: str) -> str:
    """Lower-case words between single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))
