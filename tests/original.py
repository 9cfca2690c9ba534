"""Models written as one file in the layout of the code they were first trained with.

The layouts are those of latent-diffusion and generative-models (Stability AI) and of OpenCLIP;
diffusers' own reading of them is what the files are tested against.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _renamed(key: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        key = re.sub(rf"(^|\.){re.escape(new)}(?=\.|$)", rf"\g<1>{old}", key)
    return key


def unet(model: Any) -> Tensors:
    """A ``UNet2DConditionModel``."""
    per_block = model.config.layers_per_block + 1
    attends = ["CrossAttn" in kind for kind in model.config.up_block_types]

    def name(key: str) -> str:
        found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
        if found is None:
            return _renamed(_renamed(key, UNET), RESNET if "mid_block.resnets" in key else {})
        side, block, what, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        match side, what:
            case "down", "downsamplers":
                return f"input_blocks.{(block + 1) * per_block}.0.{rest.replace('conv', 'op')}"
            case "up", "upsamplers":
                return f"output_blocks.{(block + 1) * per_block - 1}.{1 + attends[block]}.{rest}"
        if side == "down":
            place = f"input_blocks.{1 + block * per_block + layer}"
        else:
            place = f"output_blocks.{block * per_block + layer}"
        if what == "attentions":
            return f"{place}.1.{rest}"
        return f"{place}.0.{_renamed(rest, RESNET)}"

    return {
        f"model.diffusion_model.{name(key)}": value for key, value in model.state_dict().items()
    }


def autoencoder(model: Any, prefix: str = "first_stage_model.") -> Tensors:
    """An ``AutoencoderKL``."""
    last = len(model.config.block_out_channels) - 1
    tensors = {}
    for key, value in model.state_dict().items():
        name = re.sub(
            r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{last - int(found[1])}.block", key
        )
        name = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0",
            lambda found: f"up.{last - int(found[1])}.upsample",
            name,
        )
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = name.replace("mid_block.resnets.0", "mid.block_1")
        name = name.replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in name:
            name = _renamed(name.replace("mid_block.attentions.0", "mid.attn_1"), ATTENTION)
            if value.ndim == 2:
                value = value[:, :, None, None]
        tensors[prefix + name] = value
    return tensors


def clip(model: Any, prefix: str) -> Tensors:
    """A ``CLIPTextModel``."""
    return {
        f"{prefix}transformer.text_model.{key}": value for key, value in model.state_dict().items()
    }


def open_clip(model: Any, prefix: str) -> Tensors:
    """A ``CLIPTextModelWithProjection`` as OpenCLIP names it."""
    given = model.state_dict()
    tensors = {f"{prefix}text_projection": given.pop("text_projection.weight").T}
    for key in [key for key in given if ".q_proj." in key]:
        joined = torch.cat([given.pop(key.replace(".q_", f".{one}_")) for one in "qkv"])
        name = _renamed(key, OPEN_CLIP).replace("self_attn.q_proj.", "attn.in_proj_")
        tensors[prefix + name] = joined
    return tensors | {prefix + _renamed(key, OPEN_CLIP): value for key, value in given.items()}


def write(file: Path, parts: Iterable[Tensors]) -> Path:
    """One file of several parts."""
    joined = {key: value.contiguous() for part in parts for key, value in part.items()}
    save_file(joined, file)
    return file
