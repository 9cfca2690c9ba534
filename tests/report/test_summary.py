import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import kendalltau

from ttsnap.errors import UserError
from ttsnap.report.summary import headline
from ttsnap.report.summary import table as shown
from ttsnap.store.tensors import RewardTensor

PROMPTS, IMAGES, STEPS = 6, 10, 5


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The parts of a finished run that the summary reads."""
    rng = np.random.default_rng(0)
    final = rng.normal(size=(PROMPTS, IMAGES, 1))
    fade = np.linspace(1, 0, STEPS)
    noise = rng.normal(size=(PROMPTS, IMAGES, STEPS)) * fade
    base = (final + 3 * noise).astype(np.float32)
    finetuned = (final + 0.3 * noise).astype(np.float32)
    finetuned[:, :, 0] = np.nan
    finetuned[:, :, 3:] = np.nan
    ids = [f"p{i}" for i in range(PROMPTS)]
    seeds = np.arange(PROMPTS * IMAGES).reshape(PROMPTS, IMAGES)
    for kind, values in (("base", base), ("finetuned", finetuned)):
        tensor = RewardTensor(values, list(range(STEPS)), ids, seeds)
        tensor.save(tmp_path / f"tensors/clip/test.{kind}.zarr")
    (tmp_path / "simulation/clip").mkdir(parents=True)
    omega = [
        ("best-of-n", "", 0.0, 0.0, 0.0),
        ("ttsp", "decode", -3.0, -5.0, -1.0),
        ("ttsnap", "decode", 22.0, 19.0, 24.5),
    ]
    table = pd.DataFrame(omega, columns=["strategy", "look", "omega", "omega_low", "omega_high"])
    for end in ("", "_low", "_high"):
        table[f"omega_gain{end}"] = table[f"omega{end}"] + 3
    table.to_csv(tmp_path / "simulation/clip/omega.csv", index=False)
    rows = [
        {
            "method": method,
            "budget": budget,
            "prompt_id": ids[i],
            "reward": i + budget + gain * (1 + i % 2),
            "held_out": i + gain,
            "oracle": float(i % 3 == 0),
            "spent": 0.9 * budget,
            "unit": "TFLOPs",
        }
        for budget in (1.0, 2.0)
        for method, gain in (("best-of-n", 0.0), ("ttsnap", 0.5))
        for i in reversed(range(PROMPTS))
    ]
    (tmp_path / "search").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "search/results.parquet")
    return tmp_path


def test_numbers_are_those_of_the_tables(run: Path) -> None:
    numbers = headline(run)
    clip = numbers["rewards"]["clip"]
    assert clip["omega"] == {"mean": 22.0, "low": 19.0, "high": 24.5}
    assert clip["omega_gain"] == {"decode": {"mean": 25.0, "low": 22.0, "high": 27.5}}
    assert [row["budget"] for row in numbers["live"]] == [1.0, 2.0]
    for row in numbers["live"]:
        assert row["method"] == "ttsnap"
        assert row["prompts"] == PROMPTS
        assert row["reward"]["mean"] == pytest.approx(0.75)
        assert 0.5 <= row["reward"]["low"] < 0.75 < row["reward"]["high"] <= 1
        assert row["held_out"]["mean"] == pytest.approx(0.5)
        assert row["oracle"] == {"mean": 0, "low": 0, "high": 0}
        assert row["spent"] == row["spent_reference"] == 0.9 * row["budget"]


def test_tau_gain_by_scipy(run: Path) -> None:
    """Steps 0, 1, 2 of 5 are the first half; step 0 has no checkpoint and gains nothing."""
    base, finetuned = (
        RewardTensor.load(run / f"tensors/clip/test.{kind}.zarr").values
        for kind in ("base", "finetuned")
    )
    final = base[:, :, -1]
    gains = [
        sum(
            kendalltau(finetuned[p, :, step], final[p]).statistic
            - kendalltau(base[p, :, step], final[p]).statistic
            for step in (1, 2)
        )
        / 3
        for p in range(PROMPTS)
    ]
    gain = headline(run)["rewards"]["clip"]["tau_gain"]["decode"]
    assert gain["mean"] == pytest.approx(np.mean(gains))
    assert 0 < gain["low"] < gain["mean"] < gain["high"]


def test_each_look_has_its_gains_and_the_best_plan_is_the_headline(run: Path) -> None:
    for kind in ("base", "finetuned"):
        seen = RewardTensor.load(run / "tensors/clip/test.base.zarr")
        seen.save(run / f"tensors/clip@preview/test.{kind}.zarr")
    path = run / "simulation/clip/omega.csv"
    table = pd.read_csv(path)
    previews = table[table.look == "decode"].assign(look="preview", omega_gain=9.0)
    best = table[:1].assign(strategy="best", omega=30.0)
    pd.concat([table, previews, best]).to_csv(path, index=False)
    clip = headline(run)["rewards"]["clip"]
    assert clip["omega"]["mean"] == 30.0
    assert clip["omega_gain"]["preview"]["mean"] == 9.0
    assert clip["tau_gain"]["decode"]["mean"] > 0
    assert clip["tau_gain"]["preview"]["mean"] == 0


def test_without_a_judge_there_is_no_oracle(run: Path) -> None:
    path = run / "search/results.parquet"
    pd.read_parquet(path).assign(oracle=np.nan).to_parquet(path)
    numbers = headline(run)
    assert all("oracle" not in row for row in numbers["live"])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown(numbers))
    assert "oracle" not in console.export_text()


def test_the_terminal_shows_them(run: Path) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown(headline(run)))
    text = console.export_text()
    assert "+22.0" in text
    assert "[+19.0, +24.5]" in text
    assert re.search(r"2 TFLOPs +TTSnap +\+0\.750 \[\+0\.5", text)
    assert "report" not in text


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks search/results\.parquet"):
        headline(tmp_path)


def test_summary_as_json(ttsnap, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ttsnap("summary", run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == headline(run) | {"report": None}


def test_summary_names_the_page_only_if_it_is_there(
    ttsnap, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for there in (False, True):
        if there:
            (run / "report.html").touch()
        assert ttsnap("summary", run) == 0
        assert ("report.html" in capsys.readouterr().out.replace("\n", "")) is there
