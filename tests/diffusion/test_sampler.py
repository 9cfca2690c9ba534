from __future__ import annotations

import json
import logging

import diffusers
import numpy as np
import pytest
import torch

from tests.tiny import tiny_stable_diffusion
from tests.tiny_families import tiny
from ttsnap.config import Sampling, Scheduler
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.costs import without_weights
from ttsnap.diffusion.sampler import Conditioning, Sampler, State
from ttsnap.diffusion.schedulers import SCHEDULERS, tweedie
from ttsnap.errors import UserError

pytestmark = pytest.mark.filterwarnings(
    # Some schedulers hand tensors to numpy functions.
    "ignore:__array:DeprecationWarning"
)

STEPS = 6
TEXTS, NEGATIVES = ["red", 'blue 😀 "/\n'], ["", "e"]
MAIN = ["EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_stable_diffusion()


def make(pipe, name="DDIMScheduler", guidance_scale=4.0, steps=STEPS, **options) -> Sampler:
    scheduler = Scheduler(name=name, options=options)
    sampling = Sampling(steps=steps, guidance_scale=guidance_scale, scheduler=scheduler)
    return from_pipeline(pipe, sampling)


def begin(sampler: Sampler, seeds=(1, 2, 3), rows=None) -> State:
    return sampler.start(sampler.encode(TEXTS, NEGATIVES), seeds, rows or [s % 2 for s in seeds])


def finish(sampler: Sampler, state: State) -> tuple[State, list[torch.Tensor]]:
    estimates = []
    while not state.done:
        state, estimate = sampler.step(state)
        estimates.append(estimate)
    return state, estimates


def pipeline_images(pipe, sampler: Sampler, scheduler, guidance_scale: float, **arguments):
    """What the pipeline's own call makes of the prompts, as uint8, with seeds 1 and 2."""
    twin = diffusers.StableDiffusionPipeline(
        **{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False
    )
    twin.set_progress_bar_config(disable=True)
    images = twin(
        TEXTS,
        negative_prompt=NEGATIVES,
        latents=sampler.noise([1, 2]),
        guidance_scale=guidance_scale,
        height=32,
        width=32,
        output_type="np",
        **arguments,
    ).images
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_equals_the_pipeline_exactly(name, guidance_scale):
    pipe = tiny_stable_diffusion(tiny_autoencoder=name == "DDIMScheduler")
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    if name == "DPMSolverSinglestepScheduler":
        options = {"lower_order_final": True}
    steps = 7  # Heun makes 7 evaluations in 4 steps, PNDM in 6
    inference_steps = {"HeunDiscreteScheduler": 4, "PNDMScheduler": 6}.get(name, steps)
    sampler = make(pipe, name, guidance_scale, steps, **options)
    final, _ = finish(sampler, sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 2]))
    scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    expected = pipeline_images(
        pipe, sampler, scheduler, guidance_scale, num_inference_steps=inference_steps
    )
    images = sampler.decode(final.latents)
    assert images.dtype == np.uint8
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images, expected)
    assert images.std() > 5


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_equals_the_pipeline_for_other_predictions(prediction_type):
    pipe = tiny_stable_diffusion(prediction_type=prediction_type)
    sampler = make(pipe, "DPMSolverMultistepScheduler")
    final, _ = finish(sampler, sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 2]))
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    expected = pipeline_images(pipe, sampler, scheduler, 4.0, num_inference_steps=STEPS)
    np.testing.assert_array_equal(sampler.decode(final.latents), expected)


def test_equals_the_pipeline_of_a_guidance_distilled_unet():
    pipe = tiny_stable_diffusion(time_cond_proj_dim=8)
    sampler = make(pipe)
    final, _ = finish(sampler, sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 2]))
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    expected = pipeline_images(pipe, sampler, scheduler, 4.0, num_inference_steps=STEPS)
    np.testing.assert_array_equal(sampler.decode(final.latents), expected)
    assert sampler.costs()["denoise"] < 0.6 * make(tiny_stable_diffusion()).costs()["denoise"]


def test_stochastic_ddim_equals_the_pipeline_given_the_same_noise(pipe):
    sampler = make(pipe, eta=0.7)
    assert sampler.stochastic
    generator = torch.Generator().manual_seed(5)
    state = sampler.start(sampler.encode(TEXTS, NEGATIVES), [1, 2])
    while not state.done:
        noise = torch.randn(state.latents.shape, generator=generator)
        state, _ = sampler.step(state, noise)
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    expected = pipeline_images(
        pipe,
        sampler,
        scheduler,
        4.0,
        num_inference_steps=STEPS,
        eta=0.7,
        generator=torch.Generator().manual_seed(5),
    )
    np.testing.assert_array_equal(sampler.decode(state.latents), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {"eta": 1.0}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_noise_branches_a_stochastic_state(pipe, name, options):
    sampler = make(pipe, name, **options)
    state, _ = sampler.step(begin(sampler), sampler.noise([7, 8, 9]))
    one, _ = sampler.step(state, sampler.noise([10, 11, 12]))
    other, _ = sampler.step(state, sampler.noise([10, 13, 14]))
    same = [torch.equal(a, b) for a, b in zip(one.latents, other.latents, strict=True)]
    assert same == [True, False, False]


def test_noise_is_given_where_it_is_needed_and_only_there(pipe):
    stochastic, deterministic = make(pipe, eta=0.5), make(pipe)
    with pytest.raises(ValueError, match="DDIMScheduler needs noise"):
        stochastic.step(begin(stochastic))
    with pytest.raises(ValueError, match="deterministic"):
        deterministic.step(begin(deterministic), deterministic.noise([1, 2, 3]))


@pytest.mark.parametrize("name", MAIN)
def test_a_seed_does_not_depend_on_its_batch(pipe, name):
    sampler = make(pipe, name)
    batch, _ = finish(sampler, begin(sampler, seeds=range(16)))
    images = sampler.decode(batch.latents).astype(int)
    for seed in (0, 5, 15):
        alone, _ = finish(sampler, begin(sampler, seeds=[seed]))
        assert np.abs(sampler.decode(alone.latents)[0] - images[seed]).max() <= 1
    assert np.abs(images[0] - images[5]).mean() > 5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_last_estimate_is_the_final_image(pipe, name):
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    sampler = make(pipe, name, steps=7, **options)
    final, estimates = finish(sampler, begin(sampler))
    assert len(estimates) == sampler.steps
    np.testing.assert_array_equal(sampler.decode(estimates[-1]), sampler.decode(final.latents))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", MAIN)
def test_estimates_follow_tweedies_formula(name, prediction_type):
    """Equal to what schedulers report, and to the final latents where they end at sigma 0."""
    pipe = tiny_stable_diffusion(prediction_type=prediction_type)
    sampler = make(pipe, name, steps=8)
    state = begin(sampler)
    while not state.done:
        timestep = state.scheduler.timesteps[state.index]
        sigma = float(sampler.sigmas[state.index])
        scale = (sigma**2 + 1) ** 0.5 if name == "EulerDiscreteScheduler" else 1.0
        model_input = state.latents / scale
        output = sampler.denoise(model_input, timestep, state.prompts)
        expected = tweedie(model_input, output, sigma, prediction_type)
        state, estimate = sampler.step(state)
        torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-4)


def test_the_last_estimate_without_a_clean_end_is_the_final_latents(pipe):
    sampler = make(pipe, set_alpha_to_one=False, timestep_spacing="leading")
    final, estimates = finish(sampler, begin(sampler))
    assert torch.equal(estimates[-1], final.latents)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_survivors_keep_their_pixels(pipe, name):
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    if "Multistep" in name:
        options["solver_order"] = 3
    sampler = make(pipe, name, steps=9, **options)
    state = begin(sampler, seeds=range(6))
    everyone, _ = finish(sampler, state)
    for kept in ([4, 0, 3, 1], [2, 0]):
        for _ in range(3):
            state, _ = sampler.step(state)
        state = sampler.select(state, np.array(kept))
        assert len(state) == len(kept)
        assert len(state.prompts) == len(kept)
    survivors, _ = finish(sampler, state)
    # 3 and 4 were kept in the places that the second choice takes.
    expected = sampler.decode(everyone.latents)[[3, 4]].astype(int)
    assert np.abs(sampler.decode(survivors.latents) - expected).max() <= 1
    torch.testing.assert_close(survivors.latents, everyone.latents[[3, 4]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_batches_can_be_joined_on_the_way(pipe, name):
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    sampler = make(pipe, name, steps=7, **options)
    expected, _ = finish(sampler, begin(sampler, seeds=range(5)))
    parts = [begin(sampler, seeds=seeds) for seeds in ([0, 1], [2, 3], [4])]
    for _ in range(3):
        parts = [sampler.step(part)[0] for part in parts]
    joined, _ = finish(sampler, sampler.concat(parts))
    assert len(joined.prompts) == 5
    torch.testing.assert_close(joined.latents, expected.latents, rtol=1e-4, atol=1e-4)


def test_batches_at_different_steps_are_not_joined(pipe):
    sampler = make(pipe)
    state = begin(sampler)
    with pytest.raises(ValueError, match=r"before steps \[0, 1\]"):
        sampler.concat([state, sampler.step(state)[0]])


def test_the_prompt_of_a_row_matters(pipe):
    """Otherwise a wrong row of the conditioning would pass the other tests."""
    sampler = make(pipe)
    final, _ = finish(sampler, begin(sampler, seeds=[1, 1], rows=[0, 1]))
    assert (final.latents[0] - final.latents[1]).abs().max() > 0.1


def test_negative_prompts_need_guidance(pipe):
    guided, free = make(pipe), make(pipe, guidance_scale=1.0)
    assert set(guided.encode(TEXTS, NEGATIVES).tensors) == {"prompt", "negative"}
    assert set(free.encode(TEXTS, NEGATIVES).tensors) == {"prompt"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_old_state_can_be_stepped_again(pipe, name):
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    sampler = make(pipe, name, steps=7, **options)
    state = begin(sampler)
    trail = [state]
    while not state.done:
        state, _ = sampler.step(state)
        trail.append(state)
    for index in (4, 1):
        again, _ = finish(sampler, trail[index])
        assert torch.equal(again.latents, state.latents)
    assert [s.index for s in trail] == list(range(8))


def test_candidates_start_from_the_noise_of_their_seed(pipe):
    sampler = make(pipe, "EulerDiscreteScheduler")
    expected = torch.randn(4, 8, 8, generator=torch.Generator("cpu").manual_seed(2**62))
    assert torch.equal(sampler.noise([3, 2**62])[1], expected)
    one_prompt = sampler.encode(TEXTS[:1], NEGATIVES[:1])
    state = sampler.start(one_prompt, [3, 2**62])
    torch.testing.assert_close(state.latents[1], expected * sampler.sigmas[0])
    assert len(state.prompts) == 2
    two_prompts = sampler.encode(TEXTS, NEGATIVES)
    state = sampler.start_from(two_prompts, sampler.noise([1, 2]))
    assert torch.equal(state.prompts.tensors["prompt"], two_prompts.tensors["prompt"])
    with pytest.raises(ValueError, match="3 candidates"):
        sampler.start(two_prompts, [1, 2, 3])


def test_a_finished_state_takes_no_step(pipe):
    sampler = make(pipe)
    final, _ = finish(sampler, begin(sampler))
    with pytest.raises(ValueError, match="done"):
        sampler.step(final)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_sigmas_are_those_of_the_timesteps(pipe, name):
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    sampler = make(pipe, name, steps=7, **options)
    alphas = diffusers.DDIMScheduler.from_config(pipe.scheduler.config).alphas_cumprod.numpy()
    timesteps = begin(sampler).scheduler.timesteps.long().numpy()
    expected = np.sqrt((1 - alphas) / alphas)[timesteps]
    assert sampler.sigmas.dtype == np.float32
    np.testing.assert_allclose(sampler.sigmas, expected, rtol=0.02)
    assert (np.diff(sampler.sigmas) <= 0).all()


def test_a_denoiser_that_fails_is_named_with_its_step():
    pipe = tiny_stable_diffusion()
    sampler = make(pipe)
    state, _ = sampler.step(begin(sampler))
    pipe.unet.conv_out.bias.data[0] = torch.nan
    state, estimate = sampler.step(sampler.step(state)[0])
    with pytest.raises(UserError, match="not finite at step 1 of 6"):
        sampler.decode(estimate)
    pipe.unet.conv_out.bias.data[0] = 0
    _, estimate = sampler.step(begin(sampler))
    sampler.decode(estimate)


def unwatched(sampler: Sampler) -> State:
    """The end of two candidates on torch's meta device, where no number can be asked for."""
    nowhere = without_weights(sampler)
    texts = sampler.encode(["red"], [""]).tensors
    moved = Conditioning({name: rows.to("meta") for name, rows in texts.items()})
    state = nowhere.start(moved, [1, 2])
    while not state.done:
        state, _ = nowhere.step(state, nowhere.noise([3, 4]) if nowhere.stochastic else None)
        state = nowhere.select(state, [1, 0])
    return state


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_waits_for_nothing_that_is_computed(pipe, name):
    options = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    assert unwatched(make(pipe, name, steps=7, **options)).latents.is_meta


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchSDEScheduler"])
def test_a_step_of_the_flow_waits_for_nothing_that_is_computed(name):
    sampling = Sampling(steps=4, height=32, width=32, scheduler=Scheduler(name=name))
    assert unwatched(from_pipeline(tiny("flux"), sampling)).latents.is_meta


def test_long_prompts_are_cut_off_with_one_warning(pipe, caplog):
    sampler = make(pipe)
    with caplog.at_level(logging.WARNING, logger="ttsnap"):
        sampler.encode(["red"], [""])
        assert not caplog.records
        long = sampler.encode(["red " * 300 + "\n😀", "blue"], ["", "q" * 1000])
        sampler.encode(["red " * 300], [""])
    assert len(caplog.records) == 1
    assert "16 tokens" in caplog.text
    assert long.tensors["prompt"].shape == long.tensors["negative"].shape == (2, 16, 32)
    assert torch.isfinite(long.tensors["prompt"]).all()


def test_the_pipeline_is_left_as_it_is(pipe):
    before = pipe.scheduler
    make(pipe, "EulerDiscreteScheduler")
    assert pipe.scheduler is before
    assert type(before) is diffusers.DDIMScheduler
    assert before.num_inference_steps is None


def test_latents_are_not_clipped_by_default(pipe):
    pipe = tiny_stable_diffusion()
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        {"prediction_type": "v_prediction", "steps_offset": 1}
    )
    _, estimates = finish(sampler := make(pipe), begin(sampler))
    assert estimates[0].abs().max() > 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("KDPM2AncestralDiscreteScheduler", {}, "not supported, choose one of DDIM"),
        ("DDIMScheduler", {"etta": 1}, "no option etta"),
        ("EulerDiscreteScheduler", {"eta": 1}, "no option eta"),
        ("DDIMScheduler", {"eta": 2}, r"in \[0, 1\], not 2"),
        ("DDIMScheduler", {"beta_schedule": "steep"}, "steep"),
        ("DDIMScheduler", {"prediction_type": "noise"}, "prediction_type must be one of"),
        ("HeunDiscreteScheduler", {}, "cannot make exactly 6 denoiser evaluations"),
        ("PNDMScheduler", {}, "cannot make exactly 6 denoiser evaluations"),
        ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "its own noise"),
        (
            "EulerAncestralDiscreteScheduler",
            {"prediction_type": "sample"},
            "cannot use what the model predicts, prediction_type sample",
        ),
        *(
            (
                name,
                {"rescale_betas_zero_snr": True, "prediction_type": "epsilon"},
                r"starts at noise alone \(rescale_betas_zero_snr\), of which prediction_type eps",
            )
            for name in ("DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler")
        ),
    ],
)
def test_impossible_schedulers_are_refused(pipe, name, options, message):
    with pytest.raises(UserError, match=message):
        make(pipe, name, **options)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_schedule_that_starts_at_noise_alone_has_finite_noise_levels(pipe, name):
    """Which v-prediction can use; 4096 is what stands for infinity in schedulers of diffusers."""
    sampler = make(pipe, name, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert sampler.sigmas[0] == pytest.approx(4096, rel=1e-3)
    assert sampler.sigmas[1] < 100
    json.dumps(sampler.sigmas.tolist(), allow_nan=False)
    state = begin(sampler)
    output = sampler.evaluate(state).output
    state, estimate = sampler.step(state)
    torch.testing.assert_close(estimate, -output, rtol=1e-2, atol=1e-2)
    assert torch.isfinite(finish(sampler, state)[0].latents).all()


def test_what_the_stock_solver_cannot_use_is_told_before_the_first_step(pipe):
    with pytest.raises(UserError, match="PNDMScheduler cannot use what the model predicts"):
        make(pipe, "PNDMScheduler", steps=7, prediction_type="sample", skip_prk_steps=True)
    with pytest.raises(UserError, match="DDIMScheduler cannot use what the model predicts"):
        make(pipe, prediction_type="flow_prediction")


def test_impossible_sizes_and_pipelines_are_refused(pipe):
    with pytest.raises(UserError, match="multiples of 8, not 36x32"):
        from_pipeline(pipe, Sampling(height=36))
    with pytest.raises(UserError, match="cannot make exactly 2000"):
        make(pipe, steps=2000)
    with pytest.raises(UserError, match="UNet2DConditionModel: no sampler"):
        from_pipeline(pipe.unet, Sampling())


def test_a_feature_cache_is_refused():
    pipe = tiny("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig())
    scheduler = Scheduler(name="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(UserError, match=r"transformer: it keeps features .* disable_cache"):
        from_pipeline(pipe, Sampling(height=32, width=32, scheduler=scheduler))
    pipe.transformer.disable_cache()
    from_pipeline(pipe, Sampling(height=32, width=32, scheduler=scheduler))


def test_the_default_sampling_of_an_oblong(pipe):
    sampler = from_pipeline(pipe, Sampling(steps=2, height=32, width=48))
    final, _ = finish(sampler, begin(sampler))
    assert sampler.decode(final.latents).shape == (3, 32, 48, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", MAIN)
def test_half_precision_on_a_gpu_follows_the_cpu(name):
    pipe = tiny_stable_diffusion()
    sampler = make(pipe, name)
    expected, _ = finish(sampler, begin(sampler, seeds=range(6)))
    images = sampler.decode(expected.latents)[[4, 1]].astype(int)
    costs = sampler.costs()  # before the pipeline moves away from under it
    on_gpu = make(pipe.to("cuda", torch.float16), name)
    state, _ = on_gpu.step(begin(on_gpu, seeds=range(6)))
    final, estimates = finish(on_gpu, on_gpu.select(state, [4, 1]))
    assert {e.dtype for e in estimates} == {torch.float16}
    assert final.latents.device.type == "cuda"
    assert np.abs(on_gpu.decode(final.latents) - images).mean() < 4
    assert on_gpu.costs() == pytest.approx(costs)
