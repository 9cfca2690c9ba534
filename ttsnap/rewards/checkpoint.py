"""Checkpoints of finetuned rewards: a LoRA adapter of peft, or all weights, in safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ttsnap.errors import UserError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"

Changes = dict[str, Callable[["torch.Tensor"], "torch.Tensor"]]
"""By name of a parameter what makes the finetuned weight of the base model's, in main memory."""


@contextmanager
def wrapping() -> Iterator[None]:
    """Around peft wrapping a model: peft 0.21 asks transformers 5 for a name that is to go."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def load_checkpoint(module: torch.nn.Module, folder: Path) -> None:
    """Turn the base model ``module`` in place into the finetuned one; an adapter is merged.

    Raises:
        UserError: if the folder holds no checkpoint, or one of another model.
    """
    from peft import PeftModel
    from safetensors.torch import load_model

    with _naming(folder):
        if _is_adapter(folder):
            with wrapping():
                adapted = PeftModel.from_pretrained(module, folder)
            adapted.merge_and_unload()
        else:
            load_model(module, folder / WEIGHTS)


def read_changes(module: torch.nn.Module, folder: Path) -> Changes:
    """What a checkpoint changes in the base model ``module``, which is left as it is.

    Of an adapter only the factors are kept, merged anew at each call just as `load_checkpoint`
    does it; of a full checkpoint those weights that differ by a bit.

    Raises:
        UserError: as `load_checkpoint`.
    """
    return (_adapter_changes if _is_adapter(folder) else _full_changes)(module, folder)


def _adapter_changes(module: torch.nn.Module, folder: Path) -> Changes:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    with _naming(folder), wrapping():
        adapted = PeftModel.from_pretrained(module, folder)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    adapted.unload()

    def merging(layer: LoraLayer) -> Callable[[torch.Tensor], torch.Tensor]:
        for factors in (layer.lora_A, layer.lora_B):
            factors.to("cpu")
        return lambda weight: weight + layer.get_delta_weight("default")

    return {f"{name}.weight": merging(layer) for name, layer in layers.items()}


def _full_changes(module: torch.nn.Module, folder: Path) -> Changes:
    import torch

    def replacing(new: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda weight: new

    base = {name: weight.data for name, weight in module.named_parameters()}
    for weight in module.parameters():
        weight.data = weight.data.clone()
    load_checkpoint(module, folder)
    changes = {}
    for name, weight in module.named_parameters():
        if not torch.equal(weight.data, base[name]):
            changes[name] = replacing(weight.data.cpu())
        weight.data = base[name]
    return changes


def _is_adapter(folder: Path) -> bool:
    if (folder / ADAPTER).is_file():
        return True
    if (folder / WEIGHTS).is_file():
        return False
    raise UserError(f"{folder}: no checkpoint, expected {ADAPTER} or {WEIGHTS}")


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Name the folder where its weights do not fit the model."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: not a checkpoint of this reward ({reason})") from None
