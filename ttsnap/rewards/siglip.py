"""SigLIP models (arXiv 2303.15343) that score how well an image fits its prompt.

The score is what the stock model gives as ``logits_per_image``: exp(logit_scale) · cos(image, text)
+ logit_bias, whose sigmoid is the probability that they belong together. Preference models that
were finetuned from SigLIP, and SigLIP 2 of a fixed size, have the same shape. Texts are padded to
the context, as in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.checkpoint import load_checkpoint
from ttsnap.rewards.model import ModelOptions, ModelReward
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Preparation
from ttsnap.rewards.stock import load_model, load_processor, load_tokenizer, model_type

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings


class SiglipReward(ModelReward):
    """A `TrainableReward` over `SiglipModel`, its tokenizer and its image processor."""

    Options = ModelOptions
    # Not the pooling head: torch's own attention would go past an adapter of its output.
    tower = r"vision_model\.(?:embeddings|encoder|post_layernorm)"

    def __init__(
        self, model: Any, tokenizer: Any, prepare: Preparation, name: str = "siglip"
    ) -> None:
        scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
        words = f"cosine of image and text times {scale:.4g}, plus {bias:.4g}"
        super().__init__(name, words, model, prepare)
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "siglip",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load model, tokenizer and image processor from ``settings.path``, in float32.

        Raises:
            UserError: if one of the three is missing, or is not of a SigLIP.
        """
        from transformers import SiglipModel
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        options = read_options(ModelOptions, settings, name)
        path, revision = required_path(settings, name), settings.revision
        if (kind := model_type(path, revision)) != "siglip":
            raise UserError(f"{path}: expected a SigLIP model, found {kind}")
        model = load_model(SiglipModel, path, revision)
        tokenizer = load_tokenizer(path, revision)
        processor = load_processor(SiglipImageProcessorPil, path, revision)
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        model = model.to(torch_device(device))
        return cls(model, tokenizer, Preparation.of(processor, path), name).at(options)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        with self.products():
            images = self.module.vision_model(pixel_values=pixel_values).pooler_output
        images = images.float()
        images = images / images.norm(dim=-1, keepdim=True)
        cosine = (images * texts).sum(-1)
        return self.module.logit_scale.exp() * cosine + self.module.logit_bias

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors (B, D) of texts, padded and truncated to the model's context."""
        limit = self.module.config.text_config.max_position_embeddings
        self._warn_if_cut(texts, self.tokenizer, limit)
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        )
        features = self.module.get_text_features(**tokens.to(self.device)).pooler_output
        return features / features.norm(dim=-1, keepdim=True)
