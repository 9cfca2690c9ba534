"""Candidates share the encoded prompts, however they are chosen, joined and branched."""

from __future__ import annotations

import pytest
import torch

from tests.sampling import NEGATIVES, TEXTS, finish, make
from tests.tiny_families import tiny
from ttsnap.diffusion.state import Conditioning, State


def storage(state: State) -> set[int]:
    """Where the encoded prompts of a state are in memory."""
    return {tensor.data_ptr() for tensor in state.conditioning.tensors.values()}


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_encoded_prompts_are_not_copied(family):
    sampler = make(tiny(family))
    conditioning = sampler.encode(TEXTS, NEGATIVES)
    there = {tensor.data_ptr() for tensor in conditioning.tensors.values()}
    state = sampler.start(conditioning, range(6), [0, 1, 0, 1, 0, 0])
    branched = sampler.select(sampler.evaluate(state), [5, 5, 1, 5])
    following, _ = sampler.step(branched)
    pieces = [sampler.select(following, some) for some in ([0, 1], [2, 3])]
    joined = sampler.concat(pieces)
    for one in (state, branched, following, *pieces, joined):
        assert one.conditioning is conditioning
        assert storage(one) == there
    assert joined.rows == (0, 0, 1, 0)


def test_rows_are_gathered_for_the_denoiser():
    """Bit by bit as if each candidate had had a copy of its prompt all along."""
    sampler = make(tiny("flux"))
    conditioning = sampler.encode(TEXTS, NEGATIVES)
    rows = [1, 0, 1]
    copied = conditioning.select(torch.tensor(rows))
    shared, _ = finish(sampler, sampler.start(conditioning, [1, 2, 3], rows))
    apart, _ = finish(sampler, sampler.start(copied, [1, 2, 3]))
    assert apart.rows == (0, 1, 2)
    assert torch.equal(shared.latents, apart.latents)
    taken = sampler.start(conditioning, [1, 2, 3], rows).prompts.tensors
    for name, tensor in taken.items():
        assert torch.equal(tensor, copied.tensors[name])


def test_prompts_in_their_order_are_not_even_gathered():
    sampler = make(tiny("sdxl"))
    conditioning = sampler.encode(TEXTS, NEGATIVES)
    assert sampler.start(conditioning, [1, 2]).prompts is conditioning


def test_states_of_other_prompts_are_joined():
    sampler = make(tiny("sdxl"))
    one, other = (sampler.encode([text], [""]) for text in ("red", "blue"))
    parts = [sampler.start(one, [1, 2]), sampler.start(other, [3]), sampler.start(one, [4])]
    joined = sampler.concat(parts)
    assert (joined.rows, len(joined.conditioning)) == ((0, 0, 1, 0), 2)
    expected = Conditioning.concat([part.prompts for part in parts]).tensors
    for name, tensor in joined.prompts.tensors.items():
        assert torch.equal(tensor, expected[name])
    final, _ = finish(sampler, joined)
    alone = torch.cat([finish(sampler, part)[0].latents for part in parts])
    torch.testing.assert_close(final.latents, alone, rtol=1e-4, atol=1e-4)


def test_batches():
    state = make(tiny("sdxl")).start(make(tiny("sdxl")).encode(["red"], [""]), range(7))
    assert state.batches(3) == [range(3), range(3, 6), range(6, 7)]
    assert state.batches(7) == state.batches(100) == [range(7)]
    assert state.all_rows() is state
