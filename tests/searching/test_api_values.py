"""Values that cannot be, given to the function for notebooks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tiny import tiny_stable_diffusion
from ttsnap import search
from ttsnap.errors import UserError


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"num_inference_steps": 0}, "steps: should be greater than 0, not 0"),
        ({"height": 37}, "height: should be a multiple of 4, not 37"),
        ({"width": 0}, "width: should be greater than 0, not 0"),
        ({"guidance_scale": -1}, "guidance_scale: should be greater than or equal to 0, not -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale: should be a finite number"),
        ({"batch_size": 0}, "batch_size: expected a whole number of 1 or more, not 0"),
        ({"seed": -1}, "seed: expected a whole number of 0 or more, not -1"),
        ({"seed": 1.5}, "seed: expected a whole number of 0 or more, not 1.5"),
        ({"budget": 0}, "budget '0': expected a number above 0"),
        ({"method": "bem"}, "method bem: unknown; did you mean beam"),
        ({"reward": "clip:no/such/place/here"}, "neither a local path nor a hub id"),
        ({"scheduler": "ddim"}, "scheduler 'ddim': expected a class of diffusers"),
    ],
)
def test_impossible_values_are_one_line(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        search(tiny_stable_diffusion(), "a", **{"reward": "brightness", **given})
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_zero_is_a_value() -> None:
    small = {"reward": "brightness", "num_inference_steps": 2, "budget": "4nfe", "progress": False}
    pipe = tiny_stable_diffusion()
    usual, none, one = (
        search(pipe, "red", **small, **guidance)
        for guidance in ({}, {"guidance_scale": 0}, {"guidance_scale": 1})
    )
    assert (none.image == one.image).all()
    assert (none.image != usual.image).any()


def test_the_commands_names_and_diffusers_are_the_same() -> None:
    pipe = tiny_stable_diffusion()
    how = {"reward": "brightness", "budget": "4nfe", "progress": False}
    theirs, ours = (
        search(pipe, ["red", "blue"], **how, **names)
        for names in (
            {"num_inference_steps": 2, "guidance_scale": 3},
            {"steps": 2, "guidance": 3},
        )
    )
    assert [found.prompt for found in theirs] == ["red", "blue"]
    assert all((a.image == b.image).all() for a, b in zip(theirs, ours, strict=True))
    with pytest.raises(UserError, match="guidance, guidance_scale: two names of one setting"):
        search(pipe, "red", **how, guidance=3, guidance_scale=3)
    looks = search(pipe, "red", **how | {"budget": "9nfe"}, method="beam", guidance=1, steps=3)
    assert looks.nfe <= 9
    listed = {"num_inference_steps": 3, "steps": [1]}
    at_one = search(pipe, "red", **how | {"budget": "9nfe"}, method="beam", guidance=1, **listed)
    assert at_one.options["steps"] == [1]
