"""Negative token merging (NegToMe, arXiv 2412.01339): images of a prompt that differ more.

Candidates of a prompt form groups in the order of their seeds, and each group has a reference. In
the early steps, after attention, every token of a candidate is pushed away from the token of the
reference that it resembles most. The reference is not pushed: its trajectory is that of its seed
alone. An image therefore follows from two seeds, its own and its reference's, whatever else is in
its batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ttsnap import config
from ttsnap.errors import UserError

_ATTENTION = {
    "up": r"up_blocks\..*\.attn1",
    "all": r".*blocks\..*\.attn1|(single_)?transformer_blocks\.\d+\.attn",
}
"""Where -> names of the modules in which the tokens of an image attend to each other."""


def push_away(
    tokens: torch.Tensor, references: torch.Tensor, alpha: float, threshold: float
) -> torch.Tensor:
    """Push tokens away from their best matches in a reference (section 3.1 of the paper).

    The best match is that of the highest cosine similarity among all tokens of the reference.
    Where it exceeds the threshold, a token becomes (1 + alpha) · token - alpha · match.

    Args:
        tokens: (B, N, C).
        references: (B,) int64, row of each one's reference; rows that are their own stay as
            they are.
        alpha: strength.
        threshold: of the similarity.

    Returns:
        (B, N, C).
    """
    (pushed,) = torch.nonzero(references != torch.arange(len(tokens)), as_tuple=True)
    if not len(pushed):
        return tokens
    own, reference = tokens[pushed], tokens[references[pushed]]
    similarity = nn.functional.normalize(own, dim=-1) @ nn.functional.normalize(
        reference, dim=-1
    ).transpose(1, 2)
    best, match = similarity.max(dim=-1)
    matched = reference.gather(1, match[..., None].expand_as(own))
    moved = torch.where((best > threshold)[..., None], own + alpha * (own - matched), own)
    return tokens.index_copy(0, pushed.to(tokens.device), moved)


class NegToMe:
    """Pushes the images of a batch apart, in the attention layers of a denoiser.

    It hooks on to the outputs of the layers while it is in force, and leaves no trace.

    Args:
        denoiser: U-Net or transformer of diffusers.
        settings: of the config.
        aspect: width of a picture in units of its height.

    Raises:
        UserError: the denoiser has no such layers.
    """

    def __init__(self, denoiser: nn.Module, settings: config.NegToMe, aspect: float) -> None:
        self.settings, self._aspect = settings, aspect
        named = re.compile(_ATTENTION[settings.where])
        self._layers = [part for name, part in denoiser.named_modules() if named.fullmatch(name)]
        if not self._layers:
            raise UserError(
                f"sampling.negtome.where: {settings.where}: {type(denoiser).__name__} has no such "
                "layers; the other choice is " + ("all" if settings.where == "up" else "up")
            )

    def acts(self, timestep: float) -> bool:
        """Whether images depend on each other in the evaluation at this timestep."""
        return self.settings.t_end <= timestep <= self.settings.t_start

    @contextmanager
    def between(self, references: Sequence[int], text_tokens: int) -> Iterator[None]:
        """Push images apart in all passes of the denoiser meanwhile.

        Args:
            references: row of each one's reference in the batch of a pass.
            text_tokens: in front of the image's, where both go through a layer as one.

        Raises:
            UserError: no feature map was as wide as ``min_width`` wants.
        """
        rows = torch.tensor(references)
        widest = 0

        def hook(layer: Any, _: Any, output: Any) -> Any:
            nonlocal widest
            # Layers of image and text give the image's tokens first.
            tokens, *others = output if isinstance(output, tuple) else (output,)
            text = text_tokens if _joins_text(layer) else 0
            image = tokens[:, text:]
            width = round((image.shape[1] * self._aspect) ** 0.5)
            widest = max(widest, width)
            if width < self.settings.min_width:
                return output
            image = push_away(image, rows, self.settings.alpha, self.settings.threshold)
            tokens = torch.cat([tokens[:, :text], image], dim=1)
            return (tokens, *others) if isinstance(output, tuple) else tokens

        handles = [layer.register_forward_hook(hook) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if widest < self.settings.min_width:
            raise UserError(
                f"sampling.negtome.min_width: no feature map is {self.settings.min_width} wide, "
                f"the widest is {widest}"
            )


def _joins_text(layer: Any) -> bool:
    """Whether this is of a single block of Flux or FLUX.2: text and image go through it as one."""
    joint = type(layer).__name__ == "Flux2ParallelSelfAttention"
    return joint or bool(getattr(layer, "pre_only", False))
