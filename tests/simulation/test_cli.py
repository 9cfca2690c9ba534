"""`ttsnap simulate` and `ttsnap plan` on tensors without a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ttsnap.errors import UserError
from ttsnap.schedule import CostModel, planned_schedule, read_plan
from ttsnap.simulation.source import load_source
from ttsnap.store.receipts import write_receipt
from ttsnap.store.tensors import RewardTensor

COSTS = ("--denoise", "1", "--verify", "0.2")
BUDGETS = ("--budgets", "15:45:15")


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    fade = np.linspace(1, 0, 7)
    found = {}
    for name in ("a", "b"):
        final = rng.normal(size=(16, 30, 1))
        noise = fade * rng.normal(size=(16, 30, 7))
        found[f"{name}_base"] = (final + 2 * noise).astype(np.float32)
        found[f"{name}_naft"] = (final + 0.5 * noise).astype(np.float32)
        found[f"{name}_naft"][:, :, 4:] = np.nan
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tensors.npz"
    np.savez(path, **arrays())
    return path


def test_simulate_plans_on_some_prompts_and_reports_on_others(
    ttsnap, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = (*COSTS, *BUDGETS, "--draws", "64", "--out", out)
    assert ttsnap("simulate", source, *options) == 0
    assert "odd prompts of tensors.npz, corrected accounting" in capsys.readouterr().out
    omega = pd.read_csv(out / "omega.csv").set_index(["strategy", "reward"])
    assert set(omega.index) == {(s, r) for s in ("best-of-n", "ttsp", "ttsnap") for r in "ab"}
    assert omega.loc[("ttsnap", "a"), "omega"] > 0
    curves = pd.read_csv(out / "curves.csv")
    assert len(curves) == 3 * 2 * 3
    plan = read_plan(out / "plan.json")
    assert plan["provenance"]["prompts"] == "even"
    assert {path.name for path in out.glob("*.png")} == {
        "reward_vs_budget.png",
        "omega.png",
        "schedules_a.png",
        "schedules_b.png",
    }
    row = curves[(curves.strategy == "ttsnap") & (curves.reward == "b") & (curves.budget == 30)]
    costs = CostModel(1.0, 0.0, 0.2, steps=7)
    assert row.schedule.item() == str(
        planned_schedule(plan, "ttsnap", 30.0, reward="b", costs=costs)[1]
    )
    # Other rewards on the prompts that are reported leave the plan as it is.
    changed = arrays()
    for values in changed.values():
        values[1::2] = -values[1::2]
    np.savez(source, **changed)
    assert ttsnap("simulate", source, *options[:-1], tmp_path / "again") == 0
    assert read_plan(tmp_path / "again/plan.json")["plans"] == plan["plans"]


def test_a_given_schedule_is_simulated_on_all_prompts(ttsnap, source: Path, tmp_path: Path) -> None:
    options = ("--schedule", "1:0.5,3:0.5", "--accounting", "ttsnap", "--rewards", "b", "--out")
    assert ttsnap("simulate", source, *COSTS, *BUDGETS, *options, tmp_path) == 0
    curves = pd.read_csv(tmp_path / "curves.csv", keep_default_na=False)
    assert set(curves.schedule) == {"", "1:0.5,3:0.5"}
    assert set(curves.reward) == {"b"}
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["accounting"] == "ttsnap"
    assert plan["provenance"]["schedule"] == "given"


@pytest.mark.parametrize(
    ("chosen", "reported", "warned"), [("odd", "even", False), ("all", "all", True)]
)
def test_reported_are_the_prompts_that_were_not_planned_on(
    ttsnap,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    chosen: str,
    reported: str,
    warned: bool,
) -> None:
    options = ("--rewards", "a", "--choose-on", chosen, "--draws", "16", "--out", tmp_path)
    assert ttsnap("simulate", source, *COSTS, *BUDGETS, *options) == 0
    printed = capsys.readouterr().out
    assert f"{reported} prompts of tensors.npz" in printed
    assert ("plans are judged on prompts that they were chosen on" in printed) is warned
    assert read_plan(tmp_path / "plan.json")["provenance"]["prompts"] == chosen


def test_a_given_schedule_is_not_chosen(
    ttsnap, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--schedule", "1:0.5", "--choose-on", "even", "--out", tmp_path)
    assert ttsnap("simulate", source, *COSTS, *BUDGETS, *options) == 1
    assert "--choose-on: nothing is chosen with --schedule" in capsys.readouterr().err


@pytest.mark.parametrize("weights", [(), ("--weights", "1,2")])
def test_joint_search(ttsnap, source: Path, tmp_path: Path, weights: tuple[str, ...]) -> None:
    options = ("--joint", *weights, "--draws", "64", "--out", tmp_path)
    assert ttsnap("simulate", source, *COSTS, *BUDGETS, *options) == 0
    omega = pd.read_csv(tmp_path / "omega.csv")
    assert set(omega.prunes_by) == {"joint"}
    assert set(omega.reward) == {"a", "b"}
    assert (tmp_path / "schedules_joint.png").is_file()


def test_plan_of_a_tensor_store(ttsnap, tmp_path: Path) -> None:
    seeds = np.arange(16 * 30).reshape(16, 30)
    ids = [f"p{i}" for i in range(16)]
    for kind, name in (("base", "a_base"), ("finetuned", "a_naft")):
        tensor = RewardTensor(arrays()[name], list(range(7)), ids, seeds)
        tensor.save(tmp_path / f"a/val.{kind}.zarr")
    out = tmp_path / "plan.json"
    store = tmp_path / "a/val.base.zarr"
    assert ttsnap("plan", store, *COSTS, "--budgets", "20,30", "--out", out) == 0
    plan = read_plan(out)
    assert [one["budget"] for one in plan["plans"]] == [20, 30, 20, 30]
    assert {one["reward"] for one in plan["plans"]} == {"a"}
    for one in plan["plans"]:
        if one["strategy"] == "ttsnap":
            assert all(check["step"] < 4 for check in one["checks"])


def test_every_reward_pays_its_own_price_in_the_unit_of_the_run(ttsnap, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_receipt(run / "model.json", {"kind": "model", "steps": 7})
    for reward, price in (("a", 1.0), ("b", 3.0)):
        paid = {"unit": "seconds", "denoise": 1.0, "decode": 0.125, "score": price}
        write_receipt(run / f"rewards/{reward}/cost.json", paid)
        for kind, name in (("base", "base"), ("finetuned", "naft")):
            values, seeds = arrays()[f"{reward}_{name}"], np.zeros((16, 30), np.int64)
            tensor = RewardTensor(values, list(range(7)), [str(i) for i in range(16)], seeds)
            tensor.save(run / f"tensors/{reward}/val.{kind}.zarr")

    def counts(*options: str) -> list[int]:
        given = ("--schedule", "5:0.5", "--budgets", "60,100", "--draws", "64", *options)
        assert ttsnap("simulate", run / "tensors", *given, "--out", tmp_path) == 0
        assert read_plan(tmp_path / "plan.json")["unit"] == "seconds"
        curves = pd.read_csv(tmp_path / "curves.csv")
        found = curves[(curves.strategy == "best-of-n") & (curves.budget == 100)]
        return found.set_index("reward").n.loc[["a", "b"]].tolist()

    assert counts() == [int(100 / (7.125 + 1)), int(100 / (7.125 + 3))]
    assert counts("--joint") == 2 * [int(100 / (7.125 + 1 + 3))]
    assert counts("--verify", "0") == 2 * [int(100 / 7)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--budgets", "1,30"), "budget 1: cannot be planned, one candidate costs 7.2"),
        (("--budgets", "30", "--rewards", "c"), "no reward c, only a, b"),
        (("--budgets", "30", "--weights", "1,2"), "--weights: only with --joint"),
        (("--budgets", "30", "--joint", "--weights", "x"), "--weights x: expected numbers"),
        (("--budgets", "30", "--joint", "--weights", "-1,2"), "none negative"),
        (("--budgets", "30", "--joint", "--weights", "0,0"), "not all 0"),
        (("--budgets", "30", "--denoise", "0"), "--denoise 0: expected a finite number above 0"),
        (("--budgets", "30", "--verify", "nan"), "--verify nan: expected a finite number"),
        (("--budgets", "30", "--verify", "0", "--accounting", "ttsnap"), "costs nothing"),
        (("--budgets", "30", "--steps", "9"), "a: rewards at 7 steps, but costs of 9"),
    ],
)
def test_bad_options_get_one_line(
    ttsnap,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    assert ttsnap("plan", source, *COSTS, *arguments, "--out", tmp_path / "plan.json") == 1
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--budgets", "1,2"), "one candidate costs 7.2 and the pool holds 30"),
        (("--budgets", "1,2", "--joint", "--schedule", "1:0.5"), "needs two or more"),
    ],
)
def test_budgets_that_buy_nothing(
    ttsnap,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    complaint: str,
) -> None:
    assert ttsnap("simulate", source, *COSTS, *options, "--out", tmp_path) == 1
    assert complaint in capsys.readouterr().err


def test_out_below_a_file(ttsnap, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, out in (("simulate", source), ("simulate", source / "x"), ("plan", source / "x")):
        assert ttsnap(command, source, *COSTS, *BUDGETS, "--out", out) == 1
        assert "is a file, expected a folder" in capsys.readouterr().err


def test_the_only_split_of_a_store_is_taken(tmp_path: Path) -> None:
    def save(split: str) -> None:
        for kind, name in (("base", "a_base"), ("finetuned", "a_naft")):
            seeds = np.zeros((16, 30), np.int64)
            tensor = RewardTensor(
                arrays()[name], list(range(7)), [str(i) for i in range(16)], seeds
            )
            tensor.save(tmp_path / f"a/{split}.{kind}.zarr")

    save("val")
    assert list(load_source(tmp_path)) == list(load_source(tmp_path / "a")) == ["a"]
    save("train")
    with pytest.raises(UserError, match="tensors of train, val, none of test"):
        load_source(tmp_path)


def test_costs_must_be_known(ttsnap, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ttsnap("simulate", source, *BUDGETS, "--out", "x") == 1
    assert "give --denoise and --verify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"a_naft": np.zeros((16, 30, 6))}, r"a: finetuned rewards are \(16, 30, 6\), expected"),
        ({"a_naft": np.zeros((16, 30, 7), int)}, "a: finetuned rewards are int64"),
        ({"a_base": np.full((16, 30, 7), np.inf)}, "a, base rewards, step 0: infinite values"),
        ({"a_base": np.full((16, 30, 7), np.nan)}, "a, base rewards: none at the last step"),
    ],
)
def test_a_bad_source_is_named(tmp_path: Path, change: dict, complaint: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **{key: v for key, v in (arrays() | change).items() if v is not None})
    with pytest.raises(UserError, match=complaint) as caught:
        load_source(path)
    assert str(caught.value).startswith(str(path))


def test_no_source(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    for name, complaint in (
        ("none.npz", "no such file"),
        ("text.npz", "not an .npz"),
        ("empty.npz", "not an .npz"),
        ("single.npz", "not an .npz but a single array"),
        ("none", "expected an .npz file"),
        ("", "no reward tensors here"),
    ):
        with pytest.raises(UserError, match=complaint):
            load_source(tmp_path / name)


def test_values_are_reported_as_they_are_unless_told_otherwise(
    ttsnap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the rewards are called."""
    values = {
        name.replace("a_", "hps_").replace("b_", "imr_"): one for name, one in arrays().items()
    }
    np.savez(tmp_path / "v.npz", **values)
    found = load_source(tmp_path / "v.npz")
    assert np.array_equal(found["hps"].base, values["hps_base"])
    assert np.array_equal(found["imr"].base, values["imr_base"])

    def curves(*options: str) -> pd.Series:
        given = (*COSTS, *BUDGETS, "--schedule", "1:0.5", "--draws", "64", *options)
        assert ttsnap("simulate", tmp_path / "v.npz", *given, "--out", tmp_path) == 0
        table = pd.read_csv(tmp_path / "curves.csv")
        return table.set_index(["reward", "strategy", "budget"])["mean"]

    plain, scaled = curves(), curves("--scale", "hps=0.5:0.01")
    assert np.allclose(scaled["hps"], (plain["hps"] - 0.5) / 0.01, rtol=1e-4)
    assert np.array_equal(scaled["imr"], plain["imr"])
    capsys.readouterr()
    for scale in ("pic=0:1", "hps=0", "hps=0:0", "hps", "hps=0:x"):
        options = (*COSTS, "--budgets", "30", "--scale", scale, "--out", tmp_path / "plan.json")
        assert ttsnap("plan", tmp_path / "v.npz", *options) == 1
        assert f"--scale {scale}: expected NAME=OFFSET:UNIT" in capsys.readouterr().err


def test_rewards_that_were_not_finetuned_leave_ttsnap_out(
    ttsnap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "base.npz", a_base=arrays()["a_base"])
    options = (*COSTS, *BUDGETS, "--draws", "64", "--out", tmp_path / "out")
    assert ttsnap("simulate", tmp_path / "base.npz", *options) == 0
    omega = pd.read_csv(tmp_path / "out/omega.csv")
    assert omega.strategy.tolist() == ["best-of-n", "ttsp"]
    assert {one["strategy"] for one in read_plan(tmp_path / "out/plan.json")["plans"]} == {"ttsp"}
    assert (tmp_path / "out/reward_vs_budget.png").is_file()


def test_as_json(ttsnap, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out", "--json")
    assert ttsnap("simulate", source, *COSTS, *BUDGETS, "--draws", "64", *out) == 0
    found = json.loads(capsys.readouterr().out)
    table = pd.read_csv(tmp_path / "out/omega.csv")
    assert [one["strategy"] for one in found["omega"]] == list(table.strategy)
    assert [one["omega"] for one in found["omega"]] == pytest.approx(list(table.omega))
    assert (found["chosen_by"], found["report_on"]) == ({"prompts": "even"}, "odd")
    plan = tmp_path / "plan.json"
    assert ttsnap("plan", source, *COSTS, *BUDGETS, "--out", plan, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(plan.read_text())
