"""Weights in fewer bits, by the quantizers of diffusers and transformers.

``int8`` is torchao's weight-only quantization, ``bnb-int8`` LLM.int8() (arXiv 2208.07339) and
``bnb-nf4`` NormalFloat (arXiv 2305.14314) of bitsandbytes, and ``fp8`` diffusers' layerwise
casting: weights rest in float8 and are cast when their layer computes. A GGUF file is quantized
already. Arithmetic is in the precision of the model in all of them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ttsnap import config
from ttsnap.errors import UserError

_NEEDS = {
    "int8": ("torchao", "'ttsnap[quant]'"),
    "bnb-int8": ("bitsandbytes", "bitsandbytes"),
    "bnb-nf4": ("bitsandbytes", "bitsandbytes"),
}
"""Quantisation -> the package that does it, and what pip installs."""

_PARTS = ("unet", "transformer", "text_encoder")
"""How the names of the parts of a pipeline begin whose weights are quantized."""


def check_quantizer(model: config.Model, device: torch.device) -> None:
    """See that the weights of a model can be quantized as it says.

    Raises:
        UserError: a package is not installed, does not run on the device, or takes no such file.
    """
    name = model.quantization
    if name == "fp8" and model.path.endswith(config.GGUF):
        raise UserError(f"model.quantization: {model.path} is quantized already; fp8 cannot be had")
    if name not in _NEEDS:
        return
    package, installed = _NEEDS[name]
    if package == "bitsandbytes" and model.path.endswith(config.FILE):
        raise UserError(f"model.quantization: {name} needs a folder, not one file; int8 takes it")
    if package == "bitsandbytes" and device.type == "cpu":
        raise UserError(f"model.quantization: {name} needs a GPU as runtime.device, not the CPU")
    if find_spec(package) is None:
        raise UserError(f"model.quantization: {name} needs {package}: pip install {installed}")


def quantizer(model: config.Model, part: str, library: str, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` of a part is told so that its weights are quantized.

    Args:
        model: whose weights they are.
        part: its name in the pipeline.
        library: diffusers or transformers, that its class is of.
        dtype: in which it computes.

    Returns:
        ``quantization_config``, or nothing.
    """
    name = model.quantization
    if name not in _NEEDS or not part.startswith(_PARTS):
        return {}
    of = import_module(library)
    match name:
        case "int8":
            from torchao.quantization import Int8WeightOnlyConfig

            settings = of.TorchAoConfig(Int8WeightOnlyConfig())
        case "bnb-int8":
            settings = of.BitsAndBytesConfig(load_in_8bit=True)
        case _:
            settings = of.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
    return {"quantization_config": settings}


def gguf_quantizer(file: Path, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_single_file`` is told of a GGUF file; nothing of any other."""
    if file.suffix != config.GGUF:
        return {}
    from diffusers import GGUFQuantizationConfig

    return {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)}


def pack_layers(denoiser: Any) -> None:
    """Quantize to ``int8`` what came from one file, of which diffusers quantizes nothing."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(denoiser, Int8WeightOnlyConfig())


def cast_layers(denoiser: Any, dtype: torch.dtype) -> None:
    """Keep the weights of a denoiser in float8 but while their layer computes in ``dtype``."""
    denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def is_plain(module: torch.nn.Module) -> bool:
    """Whether a module holds its weights as its class does, neither packed nor cast nor moved."""
    packed = any(type(weight) is not torch.nn.Parameter for weight in module.parameters())
    return not packed and not any(hasattr(part, "_diffusers_hook") for part in module.modules())
