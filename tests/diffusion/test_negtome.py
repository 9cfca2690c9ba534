"""Negative token merging: what it does to tokens, and how groups of images hang together."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.sampling import STEPS, finish
from tests.tiny_families import tiny
from ttsnap.config import NegToMe, Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.negtome import push_away
from ttsnap.diffusion.sampler import Sampler, State
from ttsnap.errors import UserError

WHERE = {
    "stable-diffusion": "up",
    "sdxl": "up",
    "flux": "all",
    "stable-diffusion-3": "all",
    "flux2-klein": "all",
}
NARROW = {"min_width": 2, "threshold": -1.0, "t_end": 500.0, "group": 4}
STRONG = NARROW | {"alpha": 2.5}

each_family = pytest.mark.parametrize("family", WHERE)


@cache
def pipeline(family: str) -> Any:
    """In float64: which match is best must not hang on rounding, which differs by batch."""
    return tiny(family).to(torch.float64)


def make(family: str, negtome: dict[str, Any] | None, guidance_scale: float = 4.0) -> Sampler:
    pipe = pipeline(family)
    return from_pipeline(
        pipe,
        Sampling(
            steps=STEPS,
            guidance_scale=guidance_scale,
            scheduler=Scheduler(name=type(pipe.scheduler).__name__),
            negtome=negtome and NegToMe(**{"where": WHERE[family]} | negtome),
        ),
    )


def begin(sampler: Sampler, seeds: list[int], references: list[int]) -> State:
    return sampler.start(sampler.encode(["red"], ["dull"]), seeds, None, references)


def latents(sampler: Sampler, seeds: list[int], references: list[int]) -> torch.Tensor:
    return finish(sampler, begin(sampler, seeds, references))[0].latents


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_token_leaves_its_best_match_in_the_reference():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 5, 4, generator=generator)
    pushed = push_away(tokens, torch.tensor([1, 1, 1]), alpha=0.5, threshold=0.4)
    moved = 0
    for row in (0, 2):
        for token, result in zip(tokens[row], pushed[row], strict=True):
            similar = torch.cosine_similarity(token[None], tokens[1])
            best = tokens[1][similar.argmax()]
            near = similar.max() > 0.4
            moved += int(near)
            close(result, 1.5 * token - 0.5 * best if near else token)
    assert 0 < moved < 10
    assert torch.equal(pushed[1], tokens[1])


@each_family
def test_no_strength_changes_nothing(family):
    plain, idle = make(family, None), make(family, STRONG | {"alpha": 0.0})
    seeds = [1, 2, 3]
    assert torch.equal(latents(idle, seeds, [1, 1, 1]), latents(plain, seeds, [1, 1, 1]))


@each_family
def test_images_of_a_group_move_apart(family):
    """Features of the attention layers become less like those of the reference."""
    seeds = [1, 2, 3, 4]
    similar = {}
    for alpha in (0.0, 2.5):
        sampler = make(family, STRONG | {"alpha": alpha}, guidance_scale=1.0)
        seen: list[torch.Tensor] = []

        def look(_module: Any, _given: Any, output: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append((output[0] if isinstance(output, tuple) else output).flatten(1))

        state = begin(sampler, seeds, [1] * 4)
        with sampler.coupling.pusher.between(state.references, 0):
            handle = sampler.coupling.pusher._layers[-1].register_forward_hook(look)
            sampler.evaluate(state)
            handle.remove()
        features = torch.nn.functional.normalize(seen[-1], dim=1)
        similar[alpha] = (features @ features.T)[~torch.eye(4, dtype=torch.bool)].mean().item()
    assert similar[2.5] < similar[0.0]
    assert not torch.equal(
        latents(make(family, STRONG), seeds, [1] * 4), latents(make(family, None), seeds, [1] * 4)
    )


@each_family
def test_an_image_follows_from_its_seed_and_its_reference(family):
    """Whatever else is in the batch, its own group and others; the reference is as without."""
    sampler = make(family, STRONG)
    seeds = [1, 2, 3, 4, 5, 6]
    together = latents(sampler, seeds, [1, 1, 1, 5, 5, 5])
    assert together.shape[0] == 6
    close(latents(sampler, [1, 2, 3], [1, 1, 1]), together[:3])
    close(latents(sampler, [6], [5]), together[5:])  # whose reference is no candidate
    close(latents(make(family, None), [1, 5], [1, 5]), together[[0, 4]])
    assert (latents(sampler, [6], [1]) - together[5:]).abs().max() > 1e-3


@each_family
def test_both_halves_of_the_guidance_are_pushed_alike(family):
    """A scale of 1 + e is nearly no guidance, but takes two passes where the model has them."""
    seeds, references = [1, 2], [1, 1]
    one, two = (latents(make(family, STRONG, scale), seeds, references) for scale in (1.0, 1.00001))
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2)


def test_a_reference_runs_on_while_its_group_needs_it():
    sampler = make("sdxl", STRONG)
    assert 1 < len(sampler.coupled) < STEPS - 1
    seeds, references = [1, 2, 3, 4, 5], [1, 1, 1, 4, 4]
    full, estimates = finish(sampler, begin(sampler, seeds, references))
    state, _ = sampler.step(begin(sampler, seeds, references))
    assert (len(state), state.running) == (5, 5)
    state = sampler.select(state, [2, 3, 1])  # all but the first group's reference
    assert (len(state), state.running) == (3, 4)
    assert len(sampler.select(state, [1]).latents) == 1  # the other group's needs nobody
    while state.index <= sampler.coupled[-1]:
        assert state.running == 4
        state, estimate = sampler.step(state)
        assert len(estimate) == 3
        close(estimate, estimates[state.index - 1][[2, 3, 1]])
    assert (len(state), state.running) == (3, 3)
    final, _ = finish(sampler, state)
    close(final.latents, full.latents[[2, 3, 1]])


def test_states_with_references_of_their_own_are_joined():
    sampler = make("sdxl", STRONG)
    full, _ = finish(sampler, begin(sampler, [1, 2, 3, 4], [1, 1, 4, 4]))
    parts = [begin(sampler, [1, 2], [1, 1]), begin(sampler, [3], [4]), begin(sampler, [4], [4])]
    joined = sampler.concat([sampler.evaluate(part) for part in parts])
    assert (len(joined), joined.running) == (4, 5)
    final, _ = finish(sampler, sampler.step(joined)[0])
    close(final.latents, full.latents)


def test_pieces_of_an_evaluation_are_chosen_from_all_rows():
    """What memory allows at once is not the method's affair: extra rows count like the others."""
    sampler = make("sdxl", STRONG)
    state = sampler.select(begin(sampler, [1, 2, 3], [1, 1, 1]), [1, 2])
    rows = state.all_rows()
    assert (len(state), state.running, len(rows)) == (2, 3, 3)
    whole = sampler.evaluate(state).output
    pieces = [sampler.evaluate(sampler.select(rows, [row])).output[:1] for row in range(3)]
    close(torch.cat(pieces), whole)


def test_encoded_prompts_are_not_copied():
    sampler = make("sdxl", STRONG)
    state = begin(sampler, [1, 2, 3], [1, 1, 1])
    there = state.conditioning
    joined = sampler.concat([sampler.select(state, [1]), sampler.select(state, [2, 0])])
    assert joined.conditioning is there
    assert len(there) == 1


def test_batches_keep_groups_together():
    sampler = make("sdxl", STRONG)
    state = begin(sampler, list(range(8)), [0] * 3 + [3] * 3 + [6] * 2)
    assert sampler.batches(state, 8) == [range(8)]
    assert sampler.batches(state, 5) == [range(3), range(3, 8)]
    assert sampler.batches(state, 2) == [
        range(2), range(2, 3), range(3, 5), range(5, 6), range(6, 8)
    ]  # fmt: skip
    survivors = sampler.select(state, [1, 2, 4, 5, 6, 7])
    assert sampler.batches(survivors, 5) == [range(2), range(2, 6)]


def test_the_pipeline_is_left_as_it_is():
    pipe = pipeline("sdxl")
    sampler = make("sdxl", STRONG)
    latents(sampler, [1, 2], [1, 1])
    assert not any(module._forward_hooks for module in pipe.unet.modules())


@pytest.mark.parametrize(
    ("family", "change", "complaint"),
    [
        ("flux", {"where": "up"}, "where: up: FluxTransformer2DModel has no such layers"),
        ("sdxl", {"t_start": 1e4, "t_end": 2e3}, "none of the 5 timesteps"),
    ],
)
def test_impossible_settings(family, change, complaint):
    with pytest.raises(UserError, match=complaint):
        make(family, STRONG | change)


@each_family
def test_what_it_costs_is_counted(family):
    """N x N similarities of C numbers for each layer and pass, of all but the reference."""
    sampler = make(family, STRONG)
    state = begin(sampler, [1], [1])
    similarities = []

    def look(tokens: torch.Tensor, *_: Any) -> torch.Tensor:
        passes, count, channels = tokens.shape
        similarities.append(2 * passes * count**2 * channels / 1e12)
        return tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttsnap.diffusion.negtome.push_away", look)
        sampler.evaluate(state)
    share = 3 / 4 * len(sampler.coupled) / STEPS
    plain, pushed = make(family, None).costs(), sampler.costs()
    assert pushed["denoise"] == pytest.approx(plain["denoise"] + share * sum(similarities))
    assert pushed["decode"] == plain["decode"]


def test_feature_maps_that_are_too_small_are_told():
    sampler = make("sdxl", STRONG | {"min_width": 64})
    with pytest.raises(UserError, match="min_width: no feature map is 64 wide, the widest is"):
        latents(sampler, [1, 2], [1, 1])


def test_stochastic_schedulers_are_refused():
    sampling = Sampling(
        scheduler=Scheduler(name="EulerAncestralDiscreteScheduler"), negtome=NegToMe()
    )
    with pytest.raises(UserError, match="needs a deterministic scheduler"):
        from_pipeline(pipeline("sdxl"), sampling)


def test_references_of_images():
    negtome = NegToMe(group=4, reference=2)
    assert [negtome.reference_of(image) for image in range(9)] == [2] * 4 + [6] * 4 + [10]
    assert np.unique([NegToMe().reference_of(image) for image in range(16)]).tolist() == [0, 8]
