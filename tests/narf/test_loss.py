from __future__ import annotations

import math

import pytest
import torch

from ttsnap.narf.loss import preference_loss, squared_error

PROMPTS = torch.tensor([0, 0, 1, 1])


def test_preference_pairs_are_of_one_prompt() -> None:
    student = torch.tensor([1.0, 2.0, 5.0, 5.0])
    teacher = torch.tensor([3.0, 1.0, 8.0, 8.0])
    # Only images 0 and 1 make a pair: the other prompt's are tied, and prompts do not mix.
    expected = -math.log(1 / (1 + math.exp(1.0 / 0.5)))
    found = preference_loss(student, teacher, PROMPTS, 0.5)
    assert found.item() == pytest.approx(expected)
    elsewhere = preference_loss(student + torch.tensor([0, 0, 9.0, 9.0]), teacher, PROMPTS, 0.5)
    assert elsewhere.item() == found.item()


def test_preference_pulls_towards_the_teachers_order() -> None:
    teacher = torch.tensor([3.0, 1.0, 0.0, 2.0])
    student = torch.zeros(4, requires_grad=True)
    preference_loss(student, teacher, PROMPTS, 1.0).backward()
    assert student.grad is not None
    assert (student.grad.sign() == torch.tensor([-1.0, 1.0, 1.0, -1.0])).all()
    right, wrong = (preference_loss(sign * teacher, teacher, PROMPTS, 1.0) for sign in (1, -1))
    assert right < wrong


def test_no_pair_is_no_loss() -> None:
    assert preference_loss(torch.ones(2), torch.ones(2), torch.tensor([0, 1]), 1.0).item() == 0


def test_squared_error() -> None:
    assert squared_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0])).item() == 4.5
