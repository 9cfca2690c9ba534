"""Losses of noise-aware reward finetuning (arXiv 2511.22242)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def squared_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the student's rewards of noisy images and the teacher's of final
    ones, both (B,): the self-distillation loss of arXiv 2511.22242.
    """
    return F.mse_loss(student, teacher)


def preference_loss(
    student: torch.Tensor, teacher: torch.Tensor, prompts: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Bradley-Terry loss: mean of -log σ((student_w - student_l) / temperature) over the pairs
    (w, l) of one prompt that the teacher ranks w above l; arXiv 2511.22242.

    Args:
        student, teacher: (B,) rewards.
        prompts: (B,) which prompt each belongs to; pairs never mix prompts.
        temperature: difference of rewards that counts as one logit.

    Returns:
        Scalar; 0 if there is no pair.
    """
    pairs = (prompts[:, None] == prompts) & (teacher[:, None] > teacher)
    logits = (student[:, None] - student) / temperature
    return (F.softplus(-logits) * pairs).sum() / pairs.sum().clamp(min=1)
