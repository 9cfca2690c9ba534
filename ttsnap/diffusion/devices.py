"""Devices and precisions by their names; imports torch, and neither diffusers nor transformers."""

from __future__ import annotations

from textwrap import shorten

import torch

from ttsnap.errors import UserError


def torch_device(name: str) -> torch.device:
    """The torch device of this name; ``auto`` is the first CUDA GPU if there is one, else the CPU.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = shorten(str(error), 240, placeholder=" …")
        raise UserError(f"runtime.device: {name} is not usable: {reason}") from error
    return device


def dtype_on(device: torch.device, name: str) -> torch.dtype:
    """The precision of this name; ``auto`` depends on the device.

    It is float32 on a CPU, bfloat16 on a GPU that has it, and float16 on any other GPU.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def autocast_on(device: torch.device, name: str, dtype: torch.dtype) -> torch.dtype | None:
    """What ``model.autocast`` of this name evaluates a model of ``dtype`` in; None is as it is.

    ``auto`` is bfloat16 on a CPU or a CUDA GPU that computes in it; others are slow at it beyond
    use. Only float32 is cast.
    """
    if name == "off" or dtype != torch.float32:
        return None
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.bfloat16 if native or name == "bfloat16" else None
