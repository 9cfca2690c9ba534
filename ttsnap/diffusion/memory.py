"""What a model takes of memory, counted on shapes alone: its weights, and what it computes.

Modules are on torch's meta device. There a step makes all tensors that it makes elsewhere, and
drops them when it does; the most that are there at once is what a candidate takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ttsnap.diffusion.architectures import Shapes
from ttsnap.diffusion.published import Architecture

BITS = {"int8": 8.0, "fp8": 8.0, "bnb-int8": 8.0, "bnb-nf4": 4.5}
"""Quantization -> bits of a weight; ``bnb-nf4`` has a scale in float32 for each 64 of them."""

BORROWED = 1.3
"""What a GPU holds over what is counted: convolutions copy their input, and borrow room. Of SDXL's
decodes, 16 at once, it held 17.1 GB where 12.9 are counted (docs/gpu.md)."""


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters of a part of a model.

    Attributes:
        linear: weights of linear layers, which every quantizer packs.
        convolved: weights of convolutions, which ``fp8`` casts, too.
        other: all others.
    """

    linear: int
    convolved: int
    other: int

    @classmethod
    def of(cls, module: torch.nn.Module | None) -> Weights:
        """Of a module; of None there are none."""
        found = {"linear": 0, "convolved": 0}
        modules = list(module.modules()) if module is not None else []
        for layer in modules:
            match layer:
                case torch.nn.Linear():
                    found["linear"] += layer.weight.numel()
                case torch.nn.Conv2d() | torch.nn.Conv3d():
                    found["convolved"] += layer.weight.numel()
        total = sum(weight.numel() for weight in module.parameters()) if module is not None else 0
        # Tied weights are listed once among all, and twice among layers.
        return cls(**found, other=max(0, total - sum(found.values())))

    def bytes(self, precision: int, quantization: str | None = None) -> float:
        """Of all of them.

        Args:
            precision: bytes of a number.
            quantization: of ``BITS``, or None.
        """
        packed = 0
        if quantization is not None:
            packed = self.linear + (self.convolved if quantization == "fp8" else 0)
        plain = self.linear + self.convolved + self.other - packed
        return plain * precision + packed * BITS.get(quantization or "", 0.0) / 8


@dataclass(frozen=True)
class Footprint:
    """A model before any choice of precision, batch and place.

    Attributes:
        denoisers: weights of the denoiser, or of both that share the steps.
        vae: weights.
        texts: weights of each text encoder.
        denoise: numbers that an evaluation of one candidate, with its guidance, holds at once.
        decode: the same of a decode.
    """

    denoisers: tuple[Weights, ...]
    vae: Weights
    texts: tuple[Weights, ...]
    denoise: float
    decode: float


def footprint(
    architecture: Architecture, height: int, width: int, guidance_scale: float, frames: int = 1
) -> Footprint:
    """Count a model for candidates of height x width pixels and so many frames."""
    with torch.device("meta"), torch.inference_mode():
        model = Shapes.of(architecture, height, width, guidance_scale, frames)
        texts = tuple(Weights.of(_text_encoder(settings)) for settings in architecture.texts)
        return Footprint(
            denoisers=(Weights.of(model.denoiser),) * (2 if architecture.denoiser_2 else 1),
            vae=Weights.of(model.vae),
            texts=texts,
            denoise=_most_at_once(model.denoise),
            decode=_most_at_once(model.decode) if model.vae else 0.0,
        )


def _text_encoder(settings: Mapping[str, Any]) -> Any:
    kind = getattr(transformers, settings["_class_name"])
    return kind(kind.config_class.from_dict(dict(settings)))


def _most_at_once(call: Callable[[], None]) -> float:
    """Numbers in float32 that a call holds at once, and on a GPU borrows."""
    counter = _Living()
    with counter:
        call()
    return counter.most / 4 * BORROWED


class _Living(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is on, and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # Weights and inputs were there before, and so were those that a result is a view of.
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, torch.Tensor)]
