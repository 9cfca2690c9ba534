"""Evaluations in bfloat16: who takes it for which device, and how near it stays to float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.tiny import tiny_stable_diffusion
from ttsnap.config import Config, Model, Sampling, load_config
from ttsnap.diffusion import from_pipeline
from ttsnap.diffusion.devices import autocast_on
from ttsnap.diffusion.loading import settled
from ttsnap.diffusion.sampler import Sampler
from ttsnap.diffusion.sources import in_precision_of
from ttsnap.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def defaults() -> Config:
    return load_config({})


def final(sampler: Sampler) -> torch.Tensor:
    state = sampler.start(sampler.encode(["red"], [""]), [1])
    while not state.done:
        state, estimates = sampler.step(state)
    return estimates


def test_it_stays_near_float32_and_costs_the_same() -> None:
    sampling = Sampling(steps=2, guidance_scale=2.0, height=32, width=32)
    exact, cast = (from_pipeline(tiny_stable_diffusion(), sampling) for _ in range(2))
    cast.autocast = torch.bfloat16
    wanted, found = final(exact), final(cast)
    assert found.dtype == wanted.dtype == torch.float32
    assert 0 < (found - wanted).abs().mean() < 0.02 * wanted.std()
    assert cast.costs() == exact.costs()


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_what_the_processor_computes_in(
    native: bool, defaults: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert settled(defaults.model, defaults.runtime).autocast == ("bfloat16" if native else "off")
    assert autocast_on(CPU, "auto", torch.bfloat16) is None
    assert autocast_on(CPU, "bfloat16", torch.float32) == torch.bfloat16
    assert autocast_on(torch.device("mps"), "auto", torch.float32) is None


def test_it_is_off_for_a_model_of_ones_own(tmp_path: Path) -> None:
    tiny_stable_diffusion(tmp_path)
    own = Model(path=str(tmp_path))
    assert own.autocast == "off"
    assert "autocast" not in own.model_dump()
    said = yaml.safe_load(f"path: {tmp_path}\nautocast: off")
    assert load_config({"model": said}).model == own


def test_half_precision_is_not_cast() -> None:
    with pytest.raises(
        UserError, match=r"model\.autocast: is for float32, and model\.dtype is float16$"
    ):
        load_config({"model": {"autocast": "bfloat16", "dtype": "float16"}})


def test_all_jobs_take_what_was_settled_once(defaults: Config) -> None:
    record = {"dtype": "float32", "autocast": "bfloat16"}
    assert in_precision_of(record, defaults.model).autocast == "bfloat16"
    assert in_precision_of({"dtype": "float32"}, defaults.model).autocast == "off"
