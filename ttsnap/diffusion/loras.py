"""LoRAs of a generator, in the formats of diffusers and Kohya, fused into its weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError

from ttsnap import config
from ttsnap.diffusion.headers import header
from ttsnap.diffusion.sources import lora_file
from ttsnap.errors import UserError

DOWN = ("lora_A.weight", "lora_down.weight", "lora.down.weight")
"""How the names of the first factor of a layer end."""

log = logging.getLogger(__name__)


def fuse_loras(pipe: Any, loras: Sequence[config.GeneratorLora]) -> None:
    """Add LoRAs to the weights of a pipeline; its layers are plain ones afterwards.

    Args:
        pipe: a diffusers pipeline, on the CPU.
        loras: each added with its scale to what the former ones left.

    Raises:
        UserError: there is no such file, it is no LoRA of such a model, or the pipeline takes none.
    """
    for number, lora in enumerate(loras):
        place = f"model.loras.{number}"
        if not hasattr(pipe, "load_lora_weights"):
            raise UserError(f"{place}: {type(pipe).__name__} takes no LoRAs")
        file = lora_file(lora, place)
        name = f"lora{number}"
        try:
            pipe.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=name,
                use_safetensors=True,
                local_files_only=True,
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
        adapted = {part: _adapted(module) for part, module in modules.items()}
        found, given = sum(adapted.values()), sum(key.endswith(DOWN) for key in header(file))
        if not found:
            raise UserError(f"{place}.path: {file} has no layer of a {type(pipe).__name__}")
        if found < given:
            log.warning("%s: %d of %d layers are not in the model", file, given - found, given)
        parts = [part for part, count in adapted.items() if count]
        pipe.fuse_lora(parts, lora_scale=lora.scale, adapter_names=[name])
        pipe.unload_lora_weights()


def _adapted(part: torch.nn.Module | None) -> int:
    """How many layers of a part have an adapter."""
    modules = part.modules() if part is not None else ()
    return sum(isinstance(module, BaseTunerLayer) for module in modules)
