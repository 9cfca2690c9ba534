"""Texts that are as long as they are: batches of them, and what they are priced with."""

from __future__ import annotations

import pytest
import torch

from tests.sampling import finish, make
from tests.tiny_families import tiny

SHORT, LONG = "red", "a small red circle left of a large blue ring on a gray background"

each_family = pytest.mark.parametrize("family", ["z-image", "qwen-image"])


@each_family
def test_a_text_does_not_depend_on_those_beside_it(family):
    sampler = make(tiny(family), steps=2)
    alone = [sampler.start(sampler.encode([text], [""]), [1]) for text in (SHORT, LONG)]
    expected = torch.cat([finish(sampler, state)[0].latents for state in alone])
    together = sampler.start(sampler.encode([SHORT, LONG], ["", ""]), [1, 1])
    for joined in (sampler.concat(alone), together):
        final, _ = finish(sampler, joined)
        torch.testing.assert_close(final.latents, expected, rtol=1e-4, atol=1e-4)


@each_family
def test_a_price_is_that_of_a_usual_text(family):
    tensors = make(tiny(family)).priced_text().tensors
    assert {rows.shape[:2] for rows in tensors.values()} == {(1, 128)}
    assert tensors["prompt_mask"].all()
