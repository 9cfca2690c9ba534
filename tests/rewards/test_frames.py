"""Videos: how they are sampled, scored, searched for and saved."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.sampling import call, images_of, make
from tests.store.test_videos import gray, read_mp4
from tests.tiny_families import tiny, tiny_ltx
from ttsnap import save, search
from ttsnap.config import Costs, Model, Preview, Runtime, Sampling
from ttsnap.diffusion import load_sampler
from ttsnap.errors import UserError
from ttsnap.rewards.brightness import BrightnessReward
from ttsnap.rewards.frames import sampled, score_frames, still
from ttsnap.rewards.function import FunctionReward
from ttsnap.searching.pricing import cost_model, measure


@cache
def pipeline(family: str) -> Any:
    return tiny(family)


@pytest.mark.parametrize("family", ["ltx", "wan"])
def test_frames(family):
    pipe = pipeline(family)
    assert images_of(make(pipe, frames=1)).shape == (2, 1, 32, 32, 3)
    assert images_of(make(pipe, frames=9)).shape == (2, 9, 32, 32, 3)
    with pytest.raises(UserError, match="frames: must be 1 more than a multiple of 4, not 8"):
        make(pipe, frames=8)


def test_an_image_has_one_frame():
    with pytest.raises(UserError, match=r"sampling\.frames: an image has 1, not 5"):
        make(tiny("stable-diffusion"), frames=5)


def test_a_decoder_that_knows_the_noise_is_told_of_none():
    pipe = tiny_ltx(timestep_conditioning=True)
    sampler = make(pipe)
    np.testing.assert_array_equal(images_of(sampler), call(pipe, latents=sampler.noise([1, 2])))


def test_models_that_are_something_else():
    with pytest.raises(UserError, match=r"decoder adds noise of its own.*than LTX-Video 0\.9\.1"):
        make(tiny_ltx(decoder_inject_noise=(True, False, False)))
    model = Model(family="wan", path=".", preview=Preview(path="."))
    with pytest.raises(UserError, match="no previews for wan"):
        load_sampler(model, Sampling(), Runtime())


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [4]), (2, [0, 8]), (4, [0, 3, 5, 8]), (9, [*range(9)]), (30, range(9))],
)
def test_frames_are_evenly_spaced(count, chosen):
    assert sampled(9, count).tolist() == list(chosen)


def test_the_score_of_a_video_is_the_mean_of_its_frames():
    videos = gray([[0, 50, 100], [200, 0, 20]])
    seen = []

    def score(images: np.ndarray, prompts: list[str]) -> np.ndarray:
        seen.extend(zip(images[:, 0, 0, 0].tolist(), prompts, strict=True))
        return images.mean(axis=(1, 2, 3))

    reward = FunctionReward(score)
    np.testing.assert_allclose(score_frames(reward, videos, ["a", "b"], 2), [50, 110])
    assert seen == [(0, "a"), (100, "a"), (200, "b"), (20, "b")]
    images = videos[:, 0]
    np.testing.assert_array_equal(score_frames(reward, images, ["a", "b"], 2), [0, 200])
    assert still(videos[0]).max() == 50
    assert still(images[0]) is images[0] or np.array_equal(still(images[0]), images[0])


def test_without_a_writer_a_model_is_not_even_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"saved by PyAV: pip install 'ttsnap\[video\]'"):
        load_sampler(Model(family="ltx", path="nowhere"), Sampling(), Runtime())


def test_prices_have_all_scored_frames():
    reward = BrightnessReward()
    sampler = make(pipeline("ltx"))
    sampler.scored_frames = 3
    counted = measure("TFLOPs", sampler, reward, 1)
    assert counted["score"] == 3 * reward.tflops(32, 32)
    assert set(counted) == {"denoise", "decode", "score"}
    priced = cost_model("TFLOPs", Costs(), sampler, [reward], 1)
    assert priced.reward == counted["score"]


def test_the_best_video_is_found_and_saved(tmp_path: Path):
    found = search(
        pipeline("ltx"),
        "red",
        reward=BrightnessReward(),
        method="ttsp",
        schedule="1:0.5",
        budget="16nfe",
        num_inference_steps=4,
        guidance_scale=1.0,
        height=32,
        width=32,
        num_frames=5,
        keep_finals=True,
        progress=False,
    )
    assert found.image.shape == (5, 32, 32, 3)
    best = max(
        BrightnessReward().score(video[[0, 1, 3, 4]], ["red"] * 4).mean()
        for video in found.finals.values()
    )
    assert found.score == pytest.approx(best)
    save(found, tmp_path)
    frames, rate = read_mp4(tmp_path / "best.mp4")
    assert rate == 25
    # Colours have half the resolution, and these pictures have only noise for colours.
    luma = [0.299, 0.587, 0.114]
    assert np.abs(frames @ luma - found.image @ luma).mean() < 6
    np.testing.assert_array_equal(Image.open(tmp_path / "best.png"), found.image[2])
    assert (tmp_path / "contact.png").is_file()
    written = sorted(path.name for path in (tmp_path / "finals").glob("*.mp4"))
    assert written == [f"candidate_{index:04d}.mp4" for index in found.finals]
    last = json.loads((tmp_path / "trace.jsonl").read_text().splitlines()[-1])
    assert last["seed"] == found.seed
