"""Plans, curves and headline numbers of a run whose checks see decodes, and previews if it has any.

The folder of a run is made of tensors that are known, the rest by its stages and commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ttsnap.config import Model, RewardSettings, Sampling
from ttsnap.report.summary import headline
from ttsnap.schedule import CostModel, read_plan
from ttsnap.simulation import plan
from ttsnap.stages import plan as plan_stage
from ttsnap.stages import simulate as simulate_stage
from ttsnap.store.receipts import write_receipt
from ttsnap.store.tensors import RewardTensor

Command = Callable[..., int]
STEPS, PROMPTS, IMAGES = 4, 8, 12
PRICES = {"unit": "TFLOPs", "denoise": 1.0, "decode": 2.0, "score": 0.25}
LOOKS = ["decode", "preview"]
BUDGETS = ("--budgets", "14,28")
PRUNING = ["ttsp", "ttsnap", "ttsp@preview", "ttsnap@preview"]


def make_run(
    run: Path,
    noise: dict[str, tuple[float, float]],
    rewards: Sequence[str] = ("clip",),
    looks: Sequence[str] = LOOKS,
    alike: bool = True,
) -> Path:
    """A run's prices and tensors; gives the folder of these.

    ``noise`` has, by the suffix of each look, how much of it untouched and finetuned early rewards
    have on top of the final ones, the same but for its size where they err ``alike``; ``looks`` are
    those of the model.
    """
    write_receipt(run / "model.json", {"kind": "model", "steps": STEPS})
    rng = np.random.default_rng(0)
    fade = np.linspace(1, 0, STEPS)
    ids, seeds = [str(i) for i in range(PROMPTS)], np.zeros((PROMPTS, IMAGES), np.int64)
    for reward in rewards:
        paid = PRICES | ({"preview": 0.125} if "preview" in looks else {})
        write_receipt(run / f"rewards/{reward}/cost.json", paid | {"looks": looks})
        for split in ("val", "test"):
            final = rng.normal(size=(PROMPTS, IMAGES, 1))
            for look, amounts in noise.items():
                disturbed = rng.normal(size=(PROMPTS, IMAGES, STEPS)) * fade
                for kind, amount in zip(("base", "finetuned"), amounts, strict=True):
                    values = (final + amount * disturbed).astype(np.float32)
                    if not alike:
                        disturbed = rng.normal(size=disturbed.shape) * fade
                    if kind == "finetuned":
                        values[:, :, [0, STEPS - 1]] = np.nan
                    tensor = RewardTensor(values, list(range(STEPS)), ids, seeds)
                    tensor.save(run / f"tensors/{reward}{look}/{split}.{kind}.zarr")
    return run / "tensors"


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two rewards: decodes that show little more than previews, which are cheap."""
    noise = {"": (1.5, 1.5), "@preview": (2.0, 0.5)}
    return make_run(tmp_path_factory.mktemp("run"), noise, ("clip", "other"))


@pytest.fixture
def plan_of(ttsnap: Command, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Plan by the command; gives the file's content."""

    def command(source: Path, *options: str) -> dict[str, Any]:
        out = tmp_path / "plan.json"
        assert ttsnap("plan", source, "--budgets", "28", *options, "--out", out) == 0
        return read_plan(out)

    return command


def means(plan: dict[str, Any]) -> dict[str, float]:
    """Expected rewards by strategy."""
    return {one["strategy"]: one["expected"]["mean"] for one in plan["plans"]}


def test_a_plan_of_a_run_is_for_both_looks_at_their_prices(
    plan_of: Callable[..., dict[str, Any]],
    tensors: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_of(tensors, "--rewards", "clip")
    assert plan["costs"] == {"denoise": 1.0, "decode": 2.0, "reward": 0.25, "preview": 0.125}
    found = {one["strategy"]: one for one in plan["plans"]}
    assert {*found} == {*PRUNING, "best"}
    best = found["best"]
    assert best["run_as"] == "ttsnap@preview"
    assert best == found["ttsnap@preview"] | {"strategy": "best"}
    # 10 candidates are denoised twice and previewed, and one of them goes on to the end.
    assert (best["n"], best["checks"]) == (10, [{"step": 1, "keep": 0.1}])
    assert best["expected_cost"] == 10 * (2 + 0.125 + 0.25) + 2 + 2.0 + 0.25
    printed = capsys.readouterr().out
    assert "best, as ttsnap@preview" in printed
    assert "ttsnap, as ttsp " in printed  # finetuning left decodes as they were
    scaled = plan_of(tensors, "--rewards", "clip", "--scale", "clip=0.5:0.01")
    assert means(scaled) == {
        key: pytest.approx((mean - 0.5) / 0.01, rel=1e-4) for key, mean in means(plan).items()
    }


def test_several_rewards_together_look_in_both_ways(
    plan_of: Callable[..., dict[str, Any]], tensors: Path
) -> None:
    plan = plan_of(tensors, "--joint", "--weights", "1,2")
    assert {one["reward"] for one in plan["plans"]} == {"joint"}
    assert {one["strategy"] for one in plan["plans"]} == {*PRUNING, "best"}
    assert plan["costs"] == {"denoise": 1.0, "decode": 2.0, "reward": 0.5, "preview": 0.125}
    found = means(plan)
    assert found["best"] == found["ttsnap@preview"] > found["ttsp"]


def test_one_store_or_a_price_without_previews_is_one_look(
    plan_of: Callable[..., dict[str, Any]], tensors: Path
) -> None:
    both = means(plan_of(tensors, "--rewards", "clip"))
    plan = plan_of(tensors / "clip@preview/test.base.zarr")
    assert {one["reward"] for one in plan["plans"]} == {"clip@preview"}
    assert plan["costs"]["preview"] == 0.125
    assert means(plan) == {name: both[f"{name}@preview"] for name in ("ttsp", "ttsnap")}
    for decodes in (
        plan_of(tensors / "clip"),
        plan_of(tensors, "--rewards", "clip", "--verify", "2.25"),
    ):
        assert decodes["costs"]["preview"] is None
        assert means(decodes) == {name: both[name] for name in ("ttsp", "ttsnap")}


def test_python_takes_previews_where_they_have_a_price(tensors: Path) -> None:
    costs = CostModel(denoise=1.0, decode=2.0, reward=0.25, steps=STEPS)
    given = {"rewards": tensors, "budgets": [28.0]}
    known = {(one["strategy"], one["reward"]) for one in plan(**given, costs=costs)["plans"]}
    assert known == {(name, reward) for name in PRUNING[:2] for reward in ("clip", "other")}
    costs = replace(costs, preview=0.125)
    known = {(one["strategy"], one["reward"]) for one in plan(**given, costs=costs)["plans"]}
    assert known == {(name, r) for name in (*PRUNING, "best") for r in ("clip", "other")}


def test_a_simulation_of_a_run_tells_looks_apart(
    ttsnap: Command, tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--rewards", "clip", "--draws", "32", "--out", tmp_path)
    assert ttsnap("simulate", tensors, *BUDGETS, *options) == 0
    said = capsys.readouterr()
    for name in (*PRUNING, "best"):
        assert f"\n{name} " in said.out
    assert "simulating 12/12 done" in said.err
    omega = pd.read_csv(tmp_path / "omega.csv", keep_default_na=False)
    assert [*omega.columns[:4]] == ["strategy", "look", "reward", "prunes_by"]
    assert rows(omega) == [
        ("best-of-n", ""),
        *((strategy, look) for look in LOOKS for strategy in ("ttsp", "ttsnap")),
        ("best", ""),
    ]
    curves = pd.read_csv(tmp_path / "curves.csv").set_index(["strategy", "look", "budget"])
    assert curves.run_as["ttsnap", "preview", 28.0] == "ttsnap@preview"
    assert (tmp_path / "schedules_clip.png").is_file()


def rows(omega: pd.DataFrame) -> list[tuple[str, str]]:
    """Strategies and looks."""
    return [*zip(omega.strategy, omega["look"].fillna(""), strict=True)]


def staged(
    run: Path,
    noise: dict[str, tuple[float, float]],
    looks: Sequence[str] = LOOKS,
    alike: bool = True,
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    """The plan, omega.csv and numbers of the reward in summary.json that a run's stages make."""
    tensors = make_run(run, noise, looks=looks, alike=alike)
    common = {
        "reward": "clip",
        "model": run / "model.json",
        "reward_cost": run / "rewards/clip/cost.json",
    }

    def receipts(split: str) -> dict[str, list[Path]]:
        return {
            kind: [tensors / f"clip{look}/{split}.{kind}.json" for look in noise]
            for kind in ("base", "finetuned")
        }

    known = {"budgets": [14.0, 28.0], "accounting": "corrected", "seed": 0}
    asked = plan_stage.Settings(
        checks=None,
        draft=None,
        steps=[1, 2],
        model=Model(),
        sampling=Sampling(),
        reward=RewardSettings(path="clip"),
        **known,
    )
    out = run / "simulation/clip"
    out.mkdir(parents=True)
    plan_stage.main(settings=asked, out=run / "plan/clip.json", **common, **receipts("val"))
    simulate_stage.main(
        settings=simulate_stage.Settings(draws=32, **known),
        plan=run / "plan/clip.json",
        curves=out / "curves.csv",
        omega=out / "omega.csv",
        **common,
        **receipts("test"),
    )
    (run / "search").mkdir()
    searched = {"method": "best-of-n", "budget": 1.0, "prompt_id": "0", "reward": 0.0}
    searched |= {"held_out": None, "oracle": None, "spent": 1.0, "unit": "TFLOPs"}
    pd.DataFrame([searched]).to_parquet(run / "search/results.parquet")
    omega = pd.read_csv(out / "omega.csv")
    return read_plan(run / "plan/clip.json"), omega, headline(run)["rewards"]["clip"]


@pytest.mark.parametrize("look", LOOKS)
def test_the_only_look_of_a_run(tmp_path: Path, look: str) -> None:
    """Decodes; or previews by a tiny autoencoder, which stands in place of the decoder."""
    planned, omega, numbers = staged(tmp_path, {"": (2.0, 0.5)}, [look])
    assert planned["costs"]["preview"] == (0.125 if look == "preview" else None)
    assert {one["strategy"] for one in planned["plans"]} == {"ttsp", "ttsnap"}
    assert rows(omega) == [("best-of-n", ""), ("ttsp", look), ("ttsnap", look)]
    found = omega.set_index("strategy").omega
    assert numbers["omega"]["mean"] == found["ttsnap"]
    assert {*numbers["tau_gain"]} == {*numbers["omega_gain"]} == {look}
    assert numbers["tau_gain"][look]["low"] > 0
    assert numbers["omega_gain"][look]["mean"] == pytest.approx(found["ttsnap"] - found["ttsp"])


def test_each_look_of_a_run_has_its_gains(tmp_path: Path) -> None:
    planned, omega, numbers = staged(tmp_path, {"": (1.0, 1.0), "@preview": (2.0, 0.5)})
    assert planned["provenance"]["source"] == str(tmp_path / "tensors/clip")
    found = omega.fillna({"look": ""}).set_index(["strategy", "look"]).omega
    assert len(found) == 6
    assert numbers["omega"]["mean"] == found["best", ""] == found["ttsnap", "preview"]
    assert numbers["tau_gain"]["decode"]["mean"] == numbers["omega_gain"]["decode"]["mean"] == 0
    assert numbers["tau_gain"]["preview"]["low"] > 0
    gain = found["ttsnap", "preview"] - found["ttsp", "preview"]
    assert numbers["omega_gain"]["preview"]["mean"] == pytest.approx(gain)


@pytest.mark.parametrize(("finetuned", "alike"), [(3.0, True), (1.8, False)])
def test_previews_are_pruned_by_the_untouched_reward_unless_finetuning_clearly_pays(
    tmp_path: Path, finetuned: float, alike: bool
) -> None:
    noise = {"": (9.0, 9.0), "@preview": (2.0, finetuned)}
    planned, omega, numbers = staged(tmp_path, noise, alike=alike)
    found = {(one["strategy"], one["budget"]): one for one in planned["plans"]}
    for budget in (14.0, 28.0):
        snap = found["ttsnap@preview", budget]
        assert snap["run_as"] == "ttsp@preview"
        assert snap == found["ttsp@preview", budget] | {"strategy": "ttsnap@preview"}
        assert found["best", budget] == snap | {"strategy": "best"}
    # With less noise it would expect more by itself, but not surely.
    alone = {one["strategy"]: one["expected"][0]["mean"] for one in planned["robust"]}
    untouched = found["ttsp@preview", 14.0]["expected"]["mean"]
    assert (alone["ttsnap@preview"] > untouched) is (finetuned < 2)
    figures = omega.set_index(["strategy", "look"]).omega
    assert figures["ttsnap", "preview"] == figures["ttsp", "preview"]
    assert numbers["omega_gain"]["preview"] == {"mean": 0, "low": 0, "high": 0}
    assert (numbers["tau_gain"]["preview"]["mean"] > 0) is (finetuned < 2)
