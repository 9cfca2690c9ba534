"""Batches that shrink are compiled for once a size, of few sizes."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.sampling import make
from tests.tiny_families import tiny
from ttsnap.diffusion.compiling import batch_sizes, compile_denoiser

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is:DeprecationWarning")


def test_sizes_halve():
    assert batch_sizes(1) == (1,)
    assert batch_sizes(8) == (1, 2, 4, 8)
    assert batch_sizes(11) == (1, 2, 3, 6, 11)


def test_batches_are_compiled_for_once_a_size():
    sampler = make(tiny("flux"), steps=4)
    texts = sampler.encode(["red"], [""])
    state = sampler.start(texts, range(4))
    counter = CompileCounter()
    codes, latents = [], []
    for compiled in (False, True, True):
        if compiled and not codes:
            torch._dynamo.reset()
            compile_denoiser(sampler.denoiser, counter)
            sampler.batch_sizes = batch_sizes(4)
        shrinking = state
        for count in (4, 3, 2, 1):
            shrinking, _ = sampler.step(sampler.select(shrinking, range(count)))
            codes += [counter.frame_count] if compiled else []
        latents.append(shrinking.latents)
    whole, same, half, single, *again = codes
    assert 0 < whole == same < half < single
    assert again == [single] * 4
    assert not torch.equal(latents[0], state.latents[:1])
    torch.testing.assert_close(latents[1], latents[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(latents[2], latents[1])
    torch._dynamo.reset()
