"""Every method on every family, with no option but what the family brings."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tests.sampling import make
from tests.tiny_families import TINY, tiny
from ttsnap.diffusion.sampler import Sampler
from ttsnap.prompts import Prompt
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.searching.budget import Budget
from ttsnap.searching.methods import METHODS
from ttsnap.searching.request import method_options
from ttsnap.searching.searcher import Searcher

RUNS = 4  # whole images that the budget pays for

OFTEN = ("ttsp", "zero-order", "smc")
"""A method that draws fresh noise, one that moves initial noise, one that adds noise at steps."""


@cache
def sampler_of(family: str, dtype: torch.dtype) -> Sampler:
    pipe: Any = tiny(family).to(dtype)
    steps = 7 if family == "edm" else 5
    return make(pipe, steps=steps)


def usual(family: str, method: str, dtype: torch.dtype) -> bool:
    """Whether a case runs every time; the others are many, and rarely tell more."""
    return dtype == torch.float32 and (method in OFTEN or family == "stable-diffusion")


@pytest.mark.parametrize(
    ("family", "method", "dtype"),
    [
        pytest.param(*case, marks=[] if usual(*case) else [pytest.mark.slow])
        for case in product(TINY, METHODS, (torch.float32, torch.bfloat16))
    ],
)
def test_every_method_runs_on_every_family(family: str, method: str, dtype: torch.dtype) -> None:
    sampler = sampler_of(family, dtype)
    searcher = Searcher(sampler, [BrightnessReward()], batch_size=8)
    costs = searcher.prices("TFLOPs")
    how = METHODS[method]
    options = method_options(how, {"schedule": "1:0.5"} if how.prunes else {})
    budget = Budget(RUNS * costs.cost(1), "TFLOPs")
    prompt = Prompt("p", sampler.any_prompt or "a red circle", "", 0)
    found = searcher.run(prompt, how, options, budget=budget, seed=1)
    assert found.spent <= found.budget * (1 + 1e-9)
    assert found.nfe >= sampler.steps
    assert found.image.dtype == np.uint8
    assert found.image.std() > 0
    finals = [one.rewards["brightness"] for one in found.candidates if one.rewards]
    assert found.score == max(finals)
    if how.needs_noise:
        assert searcher.sampler_for(how).noisy_steps
