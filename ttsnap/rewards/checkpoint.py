"""Checkpoints of finetuned rewards: a LoRA adapter of peft, or all weights, in safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ttsnap.errors import UserError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"


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

    try:
        if (folder / ADAPTER).is_file():
            with wrapping():
                adapted = PeftModel.from_pretrained(module, folder)
            adapted.merge_and_unload()
        elif (folder / WEIGHTS).is_file():
            load_model(module, folder / WEIGHTS)
        else:
            raise UserError(f"{folder}: no checkpoint, expected {ADAPTER} or {WEIGHTS}")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: not a checkpoint of this reward ({reason})") from None
