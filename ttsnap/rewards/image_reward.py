"""ImageReward 1.0 (arXiv 2304.05977), built from transformers' BLIP.

The published checkpoint holds the weights of BLIP's image tower, of its text encoder, a BERT that
looks at the image by cross-attention, and of a small network over the encoder's first token. They
are given the names of transformers here, so that the package ``image-reward``, which needs an
environment of its own, is only needed to compare with: see `image_reward_package`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from pydantic import Field
from torch import nn

from ttsnap.config import Text
from ttsnap.diffusion.devices import torch_device
from ttsnap.errors import UserError
from ttsnap.rewards.aesthetic import network
from ttsnap.rewards.checkpoint import load_checkpoint
from ttsnap.rewards.model import ModelOptions, ModelReward
from ttsnap.rewards.options import read_options, required_path
from ttsnap.rewards.pixels import Preparation
from ttsnap.rewards.stock import (
    file_in,
    load_model,
    load_state,
    load_tokenizer,
    read_weights,
    repository,
)

if TYPE_CHECKING:
    from ttsnap.config import RewardSettings

SCALE = "deviations from the mean of its training set"
SIZE = 224
TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the network's outputs over the training set, as the package has them."""


class ImageRewardOptions(ModelOptions):
    tokenizer: Text = Field(
        description="That of bert-base-uncased: a local folder, or ORG/NAME@COMMIT."
    )
    file: Text = Field(
        "ImageReward.pt",
        description="Weights in the folder or repository that path names, beside med_config.json.",
    )


class ImageRewardReward(ModelReward):
    """A `TrainableReward` over a BLIP and a small network.

    Image and text meet in the text encoder, so a row of a text is its tokens and their mask, and
    all of the model sees the image.
    """

    Options = ImageRewardOptions
    tower = "vision|text|head"

    def __init__(
        self, module: Any, tokenizer: Any, name: str = "image-reward", size: int = SIZE
    ) -> None:
        prepare = Preparation(size, (size, size), rounds=True)
        super().__init__(name, SCALE, module, prepare)
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        settings: RewardSettings,
        *,
        name: str = "image-reward",
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Load weights and ``med_config.json`` from ``settings.path``, in float32.

        Raises:
            UserError: if a part is missing, or the weights are not those of the model.
        """
        options, path, tokenizer = read_parts(settings, name)
        bert = json.loads(file_in(path, settings.revision, "med_config.json").read_text())
        file = file_in(path, settings.revision, options.file)
        module, size = build(read_weights(file), bert, file)
        if checkpoint is not None:
            load_checkpoint(module, checkpoint)
        return cls(module.to(torch_device(device)), tokenizer, name, size).at(options)

    def forward(self, pixel_values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """See `TrainableReward.forward`."""
        tokens, mask = texts.long().unbind(1)
        with self.products():
            patches = self.module["vision"](pixel_values=pixel_values).last_hidden_state
            states = self.module["text"](
                input_ids=tokens, attention_mask=mask, encoder_hidden_states=patches
            ).last_hidden_state
        return (self.module["head"](states[:, 0].float()).squeeze(1) - MEAN) / STD

    def _encode(self, texts: list[str]) -> torch.Tensor:
        """Tokens and their mask (B, 2, 35) int64."""
        self._warn_if_cut(texts, self.tokenizer, TOKENS)
        rows = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        return torch.stack([rows["input_ids"], rows["attention_mask"]], dim=1).to(self.device)


def read_parts(settings: RewardSettings, name: str) -> tuple[ImageRewardOptions, str, Any]:
    """Options, path and tokenizer of an ImageReward.

    Raises:
        UserError: one is missing or not what it should be.
    """
    from transformers import BertTokenizer

    options = read_options(ImageRewardOptions, settings, name)
    path = required_path(settings, name)
    place = repository(options.tokenizer, f"rewards.{name}.options.tokenizer")
    return options, path, load_tokenizer(*place, BertTokenizer)


HEAD = 64  # width of a head of attention in the image tower
_BERT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)


def build(
    state: dict[str, torch.Tensor], bert: dict[str, Any], file: Path
) -> tuple[nn.ModuleDict, int]:
    """The network of a checkpoint, and the height and width of its images.

    Args:
        state: weights by the package's names.
        bert: what med_config.json says about the text encoder.
        file: that the weights are from.

    Raises:
        UserError: some are missing or of another shape.
    """
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    tower = "blip.visual_encoder"
    try:
        width, _, patch, _ = state[f"{tower}.patch_embed.proj.weight"].shape
        side = math.isqrt(state[f"{tower}.pos_embed"].shape[1] - 1)
        inner = len(state[f"{tower}.blocks.0.mlp.fc1.weight"])
    except KeyError as error:
        raise UserError(f"{file}: the weights lack {error.args[0]}") from None
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=sum(name.endswith("attn.qkv.weight") for name in state),
        num_attention_heads=width // HEAD,
        patch_size=patch,
        image_size=side * patch,
        layer_norm_eps=1e-6,
    )
    known = {key: bert[key] for key in _BERT if key in bert}
    # Only a decoder has cross-attention; nothing is decoded, so that no text begins.
    text = BlipTextConfig(encoder_hidden_size=width, is_decoder=True, bos_token_id=None, **known)
    parts: dict[str, dict[str, torch.Tensor]] = {"vision": {}, "text": {}, "head": {}}
    for name, tensor in state.items():
        part, _, place = renamed(name).partition(".")
        if part in parts:
            parts[part][place] = tensor
    head = network(text.hidden_size)
    load_state(head, parts["head"], file)
    options = {"config": text, "state_dict": parts["text"], "add_pooling_layer": False}
    seen = load_model(BlipVisionModel, None, None, file, config=vision, state_dict=parts["vision"])
    read = load_model(BlipTextModel, None, None, file, **options)
    return nn.ModuleDict({"vision": seen, "text": read, "head": head}), side * patch


_NAMES = [
    (r"mlp\.layers", "head"),
    (r"blip\.text_encoder", "text"),
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj", "vision.embeddings.patch_embedding"),
    (r"blip\.visual_encoder\.norm", "vision.post_layernorm"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)", r"vision.encoder.layers.\1.layer_norm\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv", r"vision.encoder.layers.\1.self_attn.qkv"),
    (
        r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj",
        r"vision.encoder.layers.\1.self_attn.projection",
    ),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp", r"vision.encoder.layers.\1.mlp"),
]
"""Beginnings of the package's names, and of ours."""


def renamed(name: str) -> str:
    """Our name of one of the package's weights; others, which score nothing, keep theirs."""
    for pattern, ours in _NAMES:
        if match := re.match(rf"{pattern}(?=\.|$)", name):
            return match.expand(ours) + name[match.end() :]
    return name
