"""LoRAs of a generator, in the formats of diffusers and Kohya, fused into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError

from ttsnap import config
from ttsnap.diffusion.sources import lora_file
from ttsnap.errors import UserError


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
        parts = [part for part in pipe._lora_loadable_modules if _adapted(pipe, part)]
        # diffusers goes on without a word where no key fits.
        if not parts:
            raise UserError(f"{place}.path: {file} has no key that fits {type(pipe).__name__}")
        pipe.fuse_lora(parts, lora_scale=lora.scale, adapter_names=[name])
        pipe.unload_lora_weights()


def _adapted(pipe: Any, part: str) -> bool:
    model = getattr(pipe, part, None)
    return model is not None and any(isinstance(m, BaseTunerLayer) for m in model.modules())
