"""Drafts are the pipeline's own cheap runs; the best of them are run in full."""

from __future__ import annotations

import numpy as np
import pytest

from tests.searches import FULL, PROMPT, STEPS, Models
from tests.tiny import tiny_stable_diffusion
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.sampler import Sampler
from ttsnap.errors import UserError
from ttsnap.schedule import DRAFT
from ttsnap.searching.methods import METHODS
from ttsnap.searching.methods.draft import Drafts


@pytest.fixture(scope="module")
def guided() -> Sampler:
    return from_pipeline(tiny_stable_diffusion(), {"steps": STEPS, "guidance_scale": 4.0})


@pytest.mark.parametrize(("drafts_guided", "price"), [(False, 0.5), (True, 1.0)])
def test_a_draft_is_the_pipelines_own_run_of_fewer_steps(
    models: Models, guided: Sampler, drafts_guided: bool, price: float
) -> None:
    options = Drafts(draft_steps=2, draft_guided=drafts_guided, keep=0.5)
    found = models.search("draft", options, sampler=guided, budget=7.9 * FULL)
    seeds = [one.seed for one in found.candidates]
    drawn = guided.pipe(
        [PROMPT.text] * len(seeds),
        num_inference_steps=2,
        guidance_scale=4.0 if drafts_guided else 1.0,
        height=guided.height,
        width=guided.width,
        latents=guided.noise(seeds),
        output_type="np",
    ).images
    images = np.round(drawn * 255).astype(np.uint8)
    expected = models.rewards[0].score(images, [PROMPT.text] * len(seeds))
    np.testing.assert_allclose([one.scores[DRAFT] for one in found.candidates], expected, atol=1e-4)
    kept = {i for i, one in enumerate(found.candidates) if one.pruned_at is None}
    assert len(kept) == (len(seeds) + 1) // 2
    assert min(expected[[*kept]]) > max(np.delete(expected, [*kept]))
    assert {one.pruned_at for one in found.candidates} == {None, DRAFT}
    assert found.nfe == len(seeds) * 2 * price + len(kept) * STEPS
    # What is run in full is what best-of-N would have finished of the same seed.
    _, finals = models.by_hand(guided, [seeds[i] for i in kept])
    rewards = [found.candidates[i].rewards["clip0"] for i in kept]
    np.testing.assert_allclose(rewards, finals, atol=1e-4)


def test_full_runs_are_pruned_as_well(models: Models) -> None:
    found = models.search("draft", Drafts(draft_steps=2, keep=0.5, prune="1:0.5"), budget=20 * FULL)
    last = [max(one.scores) for one in found.candidates]
    assert {DRAFT, 1, STEPS - 1} == set(last)
    assert found.planned == pytest.approx(found.spent)


@pytest.mark.parametrize("method", ["ttsp", "ttsnap", "ttsnap+zero-order"])
def test_a_schedule_may_look_at_drafts_first(models: Models, method: str) -> None:
    """As plans of runs with drafts have them: the method ``draft`` with checks is one of these."""
    given = {"schedule": "draft:0.5,1:0.5", "draft_steps": 2}
    found = models.search(method, METHODS[method].options(**given), budget=20 * FULL)
    pruned = [one for one in found.candidates if one.origin.startswith("seed")]
    assert {DRAFT, 1, None} == {one.pruned_at for one in pruned}
    if method == "ttsp":
        other = models.search(
            "draft", Drafts(draft_steps=2, keep=0.5, prune="1:0.5"), budget=20 * FULL
        )
        assert [one.scores for one in found.candidates] == [one.scores for one in other.candidates]
        assert found.spent == other.spent


def test_one_candidate_needs_no_draft(models: Models) -> None:
    found = models.search("draft", budget=1.3 * FULL)
    assert (len(found.candidates), found.nfe) == (1, STEPS)


@pytest.mark.parametrize("steps", [STEPS, STEPS + 1])
def test_a_draft_that_saves_nothing_is_refused(models: Models, guided: Sampler, steps: int) -> None:
    with pytest.raises(UserError, match=f"a draft of {steps} steps costs no less than a run of 4"):
        models.search("draft", Drafts(draft_steps=steps))
    if steps == STEPS:
        # But one of as many steps does where it leaves guidance out.
        assert models.search("draft", Drafts(draft_steps=steps), sampler=guided).image.any()


def test_a_single_step_can_be_drafted_without_guidance(models: Models) -> None:
    once = from_pipeline(tiny_stable_diffusion(), {"steps": 1, "guidance_scale": 4.0})
    found = models.search("draft", Drafts(), sampler=once, budget=2 * FULL)
    assert {DRAFT, None} == {one.pruned_at for one in found.candidates}


def test_stopped_while_drafting_one_image_is_finished(models: Models) -> None:
    asked = iter(range(100))
    found = models.search("draft", cancelled=lambda: next(asked) > 0)
    assert found.interrupted
    assert sum(bool(one.rewards) for one in found.candidates) == 1
