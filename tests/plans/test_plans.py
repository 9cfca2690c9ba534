"""The schedules that come with the package, and where their checks come to lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ttsnap import plans
from ttsnap.config import RewardSettings
from ttsnap.plans import (
    at_noise_levels,
    default_schedule,
    noise_shares,
    reward_name,
    shipped_schedule,
    templates,
)
from ttsnap.schedule import CostModel, Schedule
from ttsnap.simulation.make_plans import RUNS, flux_sigmas, make, sdxl_sigmas

STEPS = (4, 8, 20, 28, 50)
SIGMAS = {"flux": lambda steps: flux_sigmas(steps, tokens=4096), "sdxl": sdxl_sigmas}
FLUX = templates()["flux-image-reward"]


def costs(steps: int) -> CostModel:
    """In seconds, of somebody's machine."""
    return CostModel(denoise=0.5, decode=0.2, reward=0.05, steps=steps, unit="seconds")


def test_three_rewards_and_a_default_are_there_with_their_gain_and_origin() -> None:
    names = {"flux-image-reward", "flux-pickscore", "flux-hpsv2", "default"}
    assert set(templates()) == names
    for one in templates().values():
        assert one.provenance["chosen_on"] != one.provenance["held_out"]
        assert len(one.provenance["sha256"]) == 64
        share, low, high = one.compute
        assert 0.5 < low < share < high < 1
        assert one.measured_on.startswith("FLUX.1-dev, guidance 3.5, NegToMe, 512 x 512 pixels, 20")
        for plan in one.plans:
            mean, low, high = plan["gain"]
            assert low < mean < high
            if plan["runs"] >= 3:
                assert plan["checks"]
                assert low > 0
    for name in names - {"default"}:
        assert [plan["runs"] for plan in templates()[name].plans] == list(RUNS)


def test_checks_carry_the_noise_of_their_steps() -> None:
    """Flux at 512 x 512 pixels: 1024 tokens, and so a shift of 0.63."""
    noise = noise_shares(flux_sigmas(20))
    plain = 1 - np.arange(20) / 20
    assert noise == pytest.approx(np.exp(0.63) / (np.exp(0.63) + 1 / plain - 1), abs=1e-6)
    for plan in FLUX.plans:
        for check in plan["checks"]:
            assert check["noise"] == pytest.approx(noise[check["step"]], abs=1e-4)
        # At the steps that it was planned for, a plan is what it was.
        found = at_noise_levels(plan["checks"], flux_sigmas(20))
        assert found.to_json() == [
            {"step": check["step"], "keep": check["keep"]} for check in plan["checks"]
        ]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("family", SIGMAS)
def test_checks_go_to_the_nearest_noise(family: str, steps: int) -> None:
    sigmas = SIGMAS[family](steps)
    shares = noise_shares(sigmas)
    assert np.all(np.diff(shares) < 0)
    assert shares[0] <= 1
    for plan in FLUX.plans:
        schedule = at_noise_levels(plan["checks"], sigmas)
        wanted = {}
        for check in plan["checks"]:
            step = min(range(steps - 1), key=lambda s: abs(shares[s] - check["noise"]))
            wanted[step] = wanted.get(step, 1) * check["keep"]
        assert {check.step: check.keep for check in schedule.checks} == pytest.approx(
            wanted, abs=1e-4
        )


def test_noise_is_compared_by_its_share() -> None:
    """SDXL's sigma of 1 is as much noise as signal, as is half of the way of a flow."""
    assert noise_shares([14.6, 1.0, 0.25]).tolist() == pytest.approx([14.6 / 15.6, 0.5, 0.2])
    assert noise_shares([1.0, 0.5, 0.2]).tolist() == [1.0, 0.5, 0.2]
    check = [{"noise": 0.5, "keep": 0.5}]
    for sigmas in ([14.6, 1.1, 0.25, 0.1], [1.0, 0.52, 0.2, 0.1]):
        assert at_noise_levels(check, sigmas) == Schedule.parse("1:0.5")


@pytest.mark.parametrize("steps", STEPS)
def test_a_template_is_found_by_family_and_reward(steps: int) -> None:
    prices = costs(steps)
    found = shipped_schedule("flux", "pickscore", flux_sigmas(steps), prices, 8 * prices.cost(1))
    assert found.origin == "flux-pickscore"
    (plan,) = (one for one in templates()["flux-pickscore"].plans if one["runs"] == 8)
    assert found.schedule == at_noise_levels(plan["checks"], flux_sigmas(steps))
    assert prices.largest_n(8 * prices.cost(1), found.schedule) > 8
    assert "512 x 512 pixels, 20 steps, PickScore" in found.text
    assert "% [" in found.text
    assert "\n" not in found.text


@pytest.mark.parametrize(("family", "reward"), [("sdxl", "pickscore"), ("flux", None)])
@pytest.mark.parametrize("steps", STEPS)
def test_what_has_none_gets_the_default_and_is_told(
    family: str, reward: str | None, steps: int
) -> None:
    prices = costs(steps)
    found = shipped_schedule(family, reward, SIGMAS[family](steps), prices, 8 * prices.cost(1))
    assert found.origin == "default"
    assert found.text.startswith("default schedule, planned for no model; on FLUX.1-dev")
    assert found.schedule == default_schedule(steps)
    assert all(check.step < steps - 1 for check in found.schedule.checks)


def test_the_default_lets_half_of_the_candidates_finish() -> None:
    assert str(default_schedule(20)) == "7:0.75,10:0.67"
    assert str(default_schedule(50)) == "19:0.75,27:0.67"
    assert str(default_schedule(4)) == "1:0.5025"  # both at one step


@pytest.mark.parametrize("family", ["flux", "sdxl"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_not_pruned(family: str, steps: int) -> None:
    prices = costs(steps)
    found = shipped_schedule(family, "hpsv2", [1.0, 0.6, 0.3][:steps], prices, 8 * prices.cost(1))
    assert found.schedule == Schedule()
    assert found.text == f"no checks, best-of-N: too few steps to prune, {steps}"


@pytest.mark.parametrize("runs", [0.5, 1, 1.5, 2, 5, 100, 1e5])
def test_no_budget_is_too_small_or_too_large(runs: float) -> None:
    prices = costs(20)
    budget = runs * prices.cost(1)
    for reward in ("image-reward", "pickscore", "hpsv2", None):
        found = shipped_schedule("flux", reward, flux_sigmas(20), prices, budget)
        n, alone = prices.largest_n(budget, found.schedule), prices.largest_n(budget)
        assert n > alone if found.schedule.checks else n == alone
        assert bool(found.schedule.checks) or "too small to start more" in found.text or runs <= 2
    assert found.schedule.checks or runs < 3


def test_n_follows_from_the_users_prices() -> None:
    """Where a look costs much, the same schedule starts fewer candidates."""
    dear = replace(costs(20), decode=5.0)
    counts = [
        prices.largest_n(
            8 * prices.cost(1),
            shipped_schedule("flux", "hpsv2", flux_sigmas(20), prices, 8 * prices.cost(1)).schedule,
        )
        for prices in (costs(20), dear)
    ]
    assert counts[0] > counts[1]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"kind": "clip", "path": "yuvalkirstain/PickScore_v1", "revision": "a" * 40}, "pickscore"),
        ({"kind": "clip", "path": "/models/pickscore-v1"}, "pickscore"),
        ({"kind": "clip", "path": "/models/clip"}, None),
        ({"kind": "image-reward", "path": "/models/anything"}, "image-reward"),
        ({"kind": "hpsv2", "path": "/models/anything"}, "hpsv2"),
        ({"kind": "brightness"}, None),
    ],
)
def test_rewards_are_known_by_kind_and_path(settings: dict, name: str | None) -> None:
    assert reward_name(RewardSettings(**settings)) == name


def test_listing_them_takes_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from ttsnap.plans.cli import plans_command; plans_command(as_json=True); "
        "assert not {'torch', 'pandas', 'diffusers', 'transformers'} & {*sys.modules}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {one["name"] for one in json.loads(done.stdout)} == set(templates())


def test_the_list(
    ttsnap, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert ttsnap("plans") == 0
    printed = capsys.readouterr().out
    for one in templates().values():
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{one.name} "))
        share, low, high = one.compute
        assert f"{100 * share:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of the compute" in line
        assert one.measured_on in line


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_the_script_makes_templates_of_any_such_tensors(tmp_path: Path, family: str) -> None:
    rng = np.random.default_rng(0)
    final = rng.normal(size=(8, 64, 1))
    values = final + rng.normal(size=(8, 64, 10)) * np.linspace(1.5, 0, 10)
    np.savez(tmp_path / "tensors.npz", pic_base=values.astype(np.float32))
    found, said = make(tmp_path / "tensors.npz", family)
    assert [one["name"] for one in found] == [f"{family}-pickscore", "default"][: len(found)]
    assert (len(found) == 2) is (family == "flux")
    read = plans.Template(**json.loads(json.dumps(found[0])))
    assert read.family == family
    assert 0.3 < read.compute[0] < 1
    shares = noise_shares(SIGMAS[family](10) if family == "sdxl" else flux_sigmas(10))
    for plan in read.plans:
        for check in plan["checks"]:
            assert check["noise"] == pytest.approx(shares[check["step"]], abs=1e-4)
    assert f"{family}-pickscore: TTSp" in said


@pytest.mark.slow
@pytest.mark.skipif("TTSNAP_SHARED" not in os.environ, reason="TTSNAP_SHARED is not set")
def test_what_ships_is_what_the_script_makes() -> None:
    found, said = make(Path(os.environ["TTSNAP_SHARED"], "data/flux_reward_tensors.npz"), "flux")
    for made in found:
        shipped = json.loads((Path(plans.__file__).parent / f"{made['name']}.json").read_text())
        made["provenance"]["version"] = shipped["provenance"]["version"]
        assert json.loads(json.dumps(made)) == shipped
    assert "The same reward at 69 to 83 % of best-of-N's compute" in said
