"""LAION's aesthetic predictor, version 2: how much people like a picture, whatever it shows.

A small network over the image embedding of CLIP ViT-L/14, as published with
https://github.com/christophschuhmann/improved-aesthetic-predictor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field
from torch import nn

from ttsnap.config import Text
from ttsnap.diffusion.devices import torch_device
from ttsnap.rewards.checkpoint import load_checkpoint
from ttsnap.rewards.clip import clip_preparation, require_clip
from ttsnap.rewards.model import ModelOptions, ModelReward
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Preparation
from ttsnap.rewards.stock import file_of, load_model, load_state, read_weights

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings

PREFIX = "layers."  # of the published weights


class AestheticOptions(ModelOptions):
    head: Text = Field(
        description="Weights of the network over CLIP (sac+logos+ava1-l14-linearMSE): a local "
        "file, or ORG/NAME@COMMIT:FILE.",
    )


class AestheticReward(ModelReward):
    """A `TrainableReward` that looks at the image alone; its text rows are empty."""

    Options = AestheticOptions
    tower = "vision_model|visual_projection|head"

    def __init__(
        self, clip: Any, head: nn.Sequential, prepare: Preparation, name: str = "aesthetic"
    ) -> None:
        module = nn.ModuleDict(
            {
                "vision_model": clip.vision_model,
                "visual_projection": clip.visual_projection,
                "head": head,
            }
        )
        super().__init__(name, "rating from about 1 to 10", module, prepare)

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "aesthetic",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load the image tower of the CLIP at ``settings.path`` and the network over it.

        Raises:
            UserError: if one of them is missing, or they do not fit together.
        """
        from transformers import CLIPModel

        options = read_options(AestheticOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        require_clip(path, revision)
        clip = load_model(CLIPModel, path, revision)
        head = network(clip.config.projection_dim)
        file = file_of(options.head, f"rewards.{name}.options.head")
        weights = {key.removeprefix(PREFIX): value for key, value in read_weights(file).items()}
        load_state(head, weights, file)
        # The original prepares images by OpenAI's package, which uses torchvision.
        prepare = replace(clip_preparation(path, revision), rounds=True)
        reward = cls(clip, head, prepare, name)
        if checkpoint is not None:
            load_checkpoint(reward.module, checkpoint)
        reward.module.to(torch_device(device))
        return reward.at(options)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        with self.products():
            seen = self.module["vision_model"](pixel_values=pixel_values).pooler_output
        images = self.module["visual_projection"](seen.float())
        images = images / images.norm(dim=-1, keepdim=True)
        return self.module["head"](images).squeeze(-1)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        return torch.empty(len(texts), 0, device=self.device)


def network(width: int) -> nn.Sequential:
    """The published network over embeddings of ``width``; it has no activations."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
