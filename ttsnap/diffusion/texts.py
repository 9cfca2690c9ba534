"""Texts on their way to a denoiser: who encodes them, what is too long, and what they end in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

MASKED = ("prompt", "prompt_mask", "negative", "negative_mask")
"""Names of what ``encode_prompt`` of pipelines with masked text gives, in its order."""

POOLED = ("prompt", "negative", "prompt_pooled", "negative_pooled")
"""The same of pipelines with pooled text."""


@contextmanager
def awake(pipe: Any, device: torch.device, released: bool) -> Iterator[None]:
    """Have the text encoders of a pipeline where they can run meanwhile.

    Args:
        pipe: whose encoders wait in main memory if they are ``released``.
        device: where they run.
    """
    components = pipe.components if released else {}
    encoders = [
        part for name, part in components.items() if part and name.startswith("text_encoder")
    ]
    for encoder in encoders:
        encoder.to(device)
    yield
    for encoder in encoders:
        encoder.to("cpu")


def first_too_long(texts: Sequence[str], tokenizer: Any, longest: int) -> str | None:
    """The first text of more than ``longest`` tokens."""
    lengths = map(len, tokenizer(texts, verbose=False).input_ids)
    return next((t for t, n in zip(texts, lengths, strict=True) if n > longest), None)


def room(tokenizer: Any, limit: int, thinking: bool) -> int:
    """Tokens of a prompt that a language model reads of ``limit``, with its chat template."""
    template = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    return limit - len(tokenizer(template).input_ids)


def padded(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts (L, D) of their own lengths as one tensor (P, L, D), and which tokens are theirs.

    The mask (P, L) is kept in main memory, so that lengths are known without asking a GPU.
    """
    longest = max(len(text) for text in texts)
    mask = torch.tensor([[place < len(text) for place in range(longest)] for text in texts])
    return pad_sequence(list(texts), batch_first=True), mask


def lengths(mask: torch.Tensor) -> list[int]:
    """Tokens of each text of a mask of :func:`padded`; on the meta device all there are."""
    if mask.is_meta:
        return [mask.shape[1]] * len(mask)
    return [int(length) for length in mask.sum(1)]


def repeated(tensors: dict[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
    """Texts (P, L, …) with their first token so many times in place of all of theirs."""
    return {name: rows[:, :1].repeat_interleave(tokens, 1) for name, rows in tensors.items()}
