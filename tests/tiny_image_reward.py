"""A tiny ImageReward with random weights, in the layout of the published one."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from transformers import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

SIZE, PATCH, WIDTH, LAYERS = 32, 8, 64, 2
BERT = {
    "vocab_size": 600,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
"""The text encoder, as med_config.json has it."""


def write_tokenizer(folder: Path) -> None:
    """A BERT tokenizer that knows letters, as beginnings and as parts of words."""
    signs = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs]
    words += [f"##{sign}" for sign in signs]
    words += [first + second for first in "aeioutr" for second in string.ascii_lowercase]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


class Stock(nn.Module):
    """The parts of transformers and of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=1,
                patch_size=PATCH,
                image_size=SIZE,
                layer_norm_eps=1e-6,
                initializer_range=0.02,  # by default nothing is seen
            )
        )
        text = BlipTextConfig(encoder_hidden_size=WIDTH, bos_token_id=None, **BERT)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        widths = [BERT["hidden_size"], 1024, 128, 64, 16, 1]
        self.head = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths)))


def stock(seed: int = 0) -> Stock:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Stock().eval()
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.data.add_(0.1 * torch.randn_like(weight))
            else:
                weight.data.mul_(2 if name.startswith("head") else 4)
        model.vision.embeddings.class_embedding.data.normal_(std=0.3)
        model.vision.embeddings.position_embedding.data.normal_(std=0.3)
    return model


def in_the_packages_layout(model: Stock) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights by the package's names, and those of its that score nothing."""
    tower, vision = "blip.visual_encoder", model.vision
    yield f"{tower}.cls_token", vision.embeddings.class_embedding
    yield f"{tower}.pos_embed", vision.embeddings.position_embedding
    modules = {
        f"{tower}.patch_embed.proj": vision.embeddings.patch_embedding,
        f"{tower}.norm": vision.post_layernorm,
    }
    for number, layer in enumerate(vision.encoder.layers):
        modules |= {
            f"{tower}.blocks.{number}.norm1": layer.layer_norm1,
            f"{tower}.blocks.{number}.attn.qkv": layer.self_attn.qkv,
            f"{tower}.blocks.{number}.attn.proj": layer.self_attn.projection,
            f"{tower}.blocks.{number}.norm2": layer.layer_norm2,
            f"{tower}.blocks.{number}.mlp.fc1": layer.mlp.fc1,
            f"{tower}.blocks.{number}.mlp.fc2": layer.mlp.fc2,
        }
    # Dropout stands between the first four of the published head.
    modules |= {f"mlp.layers.{place}": model.head[i] for i, place in enumerate((0, 2, 4, 6, 7))}
    for name, module in modules.items():
        yield f"{name}.weight", module.weight
        yield f"{name}.bias", module.bias
    for name, weight in model.text.named_parameters():
        yield f"blip.text_encoder.{name}", weight
    yield "blip.text_encoder.embeddings.position_ids", torch.arange(64)[None]
    for name, width in [("vision", WIDTH), ("text", 32)]:
        yield f"blip.{name}_proj.weight", torch.zeros(256, width)
        yield f"blip.{name}_proj.bias", torch.zeros(256)


def tiny_image_reward(folder: Path) -> Path:
    """Write weights, med_config.json and, below ``tokenizer``, a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: weight.detach().clone() for name, weight in in_the_packages_layout(stock())}
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(BERT | {"encoder_width": 768}))
    write_tokenizer(folder / "tokenizer")
    return folder
