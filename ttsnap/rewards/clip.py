"""CLIP models that score how well an image fits its prompt.

PickScore (arXiv 2305.01569) is exp(logit_scale) · cos(image, text), as on its model card; CLIPScore
(arXiv 2104.08718) is a constant times the cosine. Images are prepared by Pillow as the model's own
image processor does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field, PositiveFloat

from ttsnap.config import Settings
from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.checkpoint import load_checkpoint
from ttsnap.rewards.model import ModelOptions, ModelReward
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Letterbox, Preparation
from ttsnap.rewards.stock import load_model, load_processor, load_tokenizer, model_type

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings


class ClipOptions(ModelOptions):
    factor: PositiveFloat | None = Field(
        None,
        description="The cosine is multiplied by this, 100 for CLIPScore; null: by the model's "
        "own exp(logit_scale), as PickScore does.",
    )


class ClipReward(ModelReward):
    """A `TrainableReward` over `CLIPModel`, its tokenizer and its image processor."""

    Options: ClassVar[type[Settings]] = ClipOptions
    tower = "vision_model|visual_projection"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prepare: Preparation | Letterbox,
        name: str = "clip",
        factor: float | None = None,
    ) -> None:
        shown = model.logit_scale.exp().item() if factor is None else factor
        super().__init__(name, f"cosine of image and text times {shown:.4g}", model, prepare)
        self.tokenizer = tokenizer
        self.factor = factor

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "clip",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load model, tokenizer and image processor from ``settings.path``, in float32.

        Raises:
            UserError: if one of the three is missing, or is not of a CLIP.
        """
        from transformers import CLIPModel

        options = read_options(ClipOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        require_clip(path, revision)
        return cls.assemble(
            load_model(CLIPModel, path, revision),
            load_tokenizer(path, revision),
            clip_preparation(path, revision),
            name=name,
            device=device,
            checkpoint=checkpoint,
            factor=options.factor,
        ).at(options)

    @classmethod
    def assemble(
        cls,
        model: Any,
        tokenizer: Any,
        prepare: Preparation | Letterbox,
        *,
        name: str,
        device: str,
        checkpoint: Path | None,
        factor: float | None,
    ) -> Self:
        """Give a CLIP model the weights of a checkpoint, and move it to a device."""
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return cls(model.to(torch_device(device)), tokenizer, prepare, name, factor)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        with self.products():
            seen = self.module.vision_model(pixel_values=pixel_values).pooler_output
        images = self.module.visual_projection(seen.float())
        images = images / images.norm(dim=-1, keepdim=True)
        factor = self.module.logit_scale.exp() if self.factor is None else self.factor
        return factor * (images * texts).sum(-1)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors (B, D) of texts, truncated to the model's context."""
        limit = self.module.config.text_config.max_position_embeddings
        limit = min(limit, self.tokenizer.model_max_length)
        self._warn_if_cut(texts, self.tokenizer, limit)
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        features = self.module.get_text_features(
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
        ).pooler_output
        return features / features.norm(dim=-1, keepdim=True)


def require_clip(path: str, revision: str | None) -> None:
    """See that a folder or hub id is a CLIP.

    Raises:
        UserError: it is not.
    """
    if (kind := model_type(path, revision)) != "clip":
        raise UserError(f"{path}: expected a CLIP model, found {kind}")


def clip_preparation(path: str, revision: str | None) -> Preparation:
    """How the CLIP of a folder or hub id wants its images.

    Raises:
        UserError: if no image processor of a CLIP is there.
    """
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return Preparation.of(load_processor(CLIPImageProcessorPil, path, revision), path)
