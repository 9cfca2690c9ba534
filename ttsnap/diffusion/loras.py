"""LoRAs of a generator, in the formats of diffusers and Kohya, fused into its weights.

Quantized weights take no updates; beside them LoRAs stay layers of their own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError

from ttsnap import config
from ttsnap.diffusion.headers import header
from ttsnap.diffusion.quantization import is_plain
from ttsnap.diffusion.sources import lora_file
from ttsnap.errors import UserError

DOWN = ("lora_A.weight", "lora_down.weight", "lora.down.weight")
"""How the names of the first factor of a layer end."""

log = logging.getLogger(__name__)


def fuse_loras(pipe: Any, loras: Sequence[config.GeneratorLora]) -> None:
    """Add LoRAs to the weights of a pipeline; its layers are plain ones afterwards.

    Where a part has quantized weights, they are kept as layers beside its own in all parts.

    Args:
        pipe: a diffusers pipeline, on the CPU.
        loras: each added with its scale to what the former ones left.

    Raises:
        UserError: there is no such file, it is no LoRA of such a model, or the pipeline takes none.
    """
    kept: dict[str, float] = {}
    for number, lora in enumerate(loras):
        place = f"model.loras.{number}"
        if not hasattr(pipe, "load_lora_weights"):
            raise UserError(f"{place}: {type(pipe).__name__} takes no LoRAs")
        if lora.second and getattr(pipe, "transformer_2", None) is None:
            raise UserError(f"{place}.second: {type(pipe).__name__} has no second transformer")
        file = lora_file(lora, place)
        name = f"lora{number}"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")
                pipe.load_lora_weights(
                    str(file.parent),
                    weight_name=file.name,
                    adapter_name=name,
                    use_safetensors=True,
                    local_files_only=True,
                    **({"load_into_transformer_2": True} if lora.second else {}),
                )
        except (
            ValueError, RuntimeError, KeyError, IndexError, OSError, SafetensorError
        ) as error:  # fmt: skip
            reason = shorten(str(error), 240, placeholder=" …")
            raise UserError(
                f"{place}.path: {file} is no LoRA for a {type(pipe).__name__}: {reason}"
            ) from error
        # diffusers goes on where keys fit nothing.
        modules = {part: getattr(pipe, part, None) for part in pipe._lora_loadable_modules}
        adapted = {part: _adapted(module, name) for part, module in modules.items()}
        found, given = sum(adapted.values()), sum(key.endswith(DOWN) for key in header(file))
        if not found:
            raise UserError(f"{place}.path: {file} has no layer of a {type(pipe).__name__}")
        if found < given:
            log.warning("%s: %d of %d layers are not in the model", file, given - found, given)
        if not all(module is None or is_plain(module) for module in modules.values()):
            kept[name] = lora.scale
            pipe.set_adapters(list(kept), list(kept.values()))
            continue
        parts = [part for part, count in adapted.items() if count]
        pipe.fuse_lora(parts, lora_scale=lora.scale, adapter_names=[name])
        pipe.unload_lora_weights()


def _adapted(part: torch.nn.Module | None, adapter: str) -> int:
    """How many layers of a part have this adapter."""
    layers = (layer for layer in (part.modules() if part else ()) if isinstance(layer, LoraLayer))
    return sum(adapter in layer.scaling for layer in layers)
