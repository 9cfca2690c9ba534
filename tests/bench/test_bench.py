"""The command, from prompts to tables and page, killed on the way; and what its tables say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ttsnap.bench.results import interval, markdown, summed
from ttsnap.bench.settings import Bench, Judge
from ttsnap.config import RewardSettings
from ttsnap.rewards import load_reward
from ttsnap.shapes.oracle import judge_images

ROOT = Path(__file__).parents[2]
COMMAND = (
    *("bench", "shapes", "--methods", "best-of-n,ttsp", "--budgets", "0.012", "--prompts", "3"),
    *("--held-out", "brightness"),
)


FILE = ("--file", "file")


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a session of its own, so that all of it can be killed at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "ttsnap", *COMMAND, "--out", str(out), *options],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(out: Path) -> dict[Path, int]:
    """Searches that are finished, with the time of their trace."""
    return {path: path.stat().st_mtime_ns for path in out.glob("search/*/*/*/trace.jsonl")}


def test_a_killed_benchmark_goes_on_and_ends_in_a_page(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(out) as process:
        until = time.monotonic() + 120
        while not finished(out) and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    before = finished(out)
    assert 0 < len(before) < 6
    with start(out) as process:
        text, _ = process.communicate()
    assert process.returncode == 0, text
    after = finished(out)
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert "1 of 3 prompts were finished before" in text or len(before) > 1

    results = pd.read_parquet(out / "results.parquet")
    assert results.groupby("method").size().to_dict() == {"best-of-n": 3, "ttsp": 3}
    prompts = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert results.category.isin({one["category"] for one in prompts}).all()
    texts = {one["id"]: one["prompt"] for one in prompts}
    bright = load_reward(RewardSettings(kind="brightness"), name="bright")
    for row in results.itertuples():
        folder = out / "search" / row.method / "0.012" / row.prompt_id
        image = np.array(Image.open(folder / "best.png").convert("RGB"))[None]
        assert row.own == judge_images(image, [texts[row.prompt_id]])[0]
        assert row.held_out == bright.score(image, [""])[0]
        last = json.loads((folder / "trace.jsonl").read_text().splitlines()[-1])
        assert (row.reward, row.seconds) == (last["score"], last["seconds"])
        assert 0 < row.spent <= row.budget == 0.012

    table = (out / "table.md").read_text()
    assert "| 0.012 TFLOPs | best-of-N | " in table
    assert "brightness (held out)" in table
    html = (out / "bench.html").read_text()
    targets = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert {one.partition(":")[0] for one in targets if not one.startswith("#")} == {"data"}
    assert html.count("<figure>") == 6
    assert set(re.findall(r"var\((--\w+)\)", html)) <= {*re.findall(r"(--\w+):", html)}

    with start(out, "--dry-run") as process:
        text, _ = process.communicate()
    assert "Nothing to be done" in text
    with start(out, "--seed", "1") as process:
        text, _ = process.communicate()
    assert process.returncode == 1
    assert "holds a benchmark with another search" in " ".join(text.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["yakbench"], "benchmark yakbench: unknown"),
        (["genevl"], "did you mean geneval?"),
        (["geneval"], "--file: is missing; https://github.com/djghosh13/geneval, and"),
        (["drawbench", *FILE, "--judge", "brightness"], "DrawBench takes none; no judge"),
        (["geneval", *FILE, "--judge", "brightness"], "GenEval takes kind detector; "),
        (["shapes", "--methods", "ttsp,yak"], "method yak: unknown"),
        (["shapes", "--budgets", "1m"], "budget '1m'"),
        (["shapes", "--judge", "brightness"], "shapes takes none"),
        (["shapes", "--held-out", "clip"], "--held-out clip: is the reward that searches"),
        (["shapes", "--model", "m"], "--budgets: is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_a_job(
    ttsnap, options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    line = {"tag": "a", "prompt": "a yak", "include": [{"class": "yak", "count": 1}]}
    csv = "Prompts,Category\na yak,Animals\n"
    Path("file").write_text(csv if options[0] == "drawbench" else json.dumps(line))
    assert ttsnap("bench", *options, "--out", "out") == 1
    assert words in capsys.readouterr().err
    assert not Path("out").exists()


def bench(name: str, *methods: str) -> Bench:
    judge = Judge(name="d", reward=RewardSettings(kind="detector", path="m"))
    return Bench(
        name=name, model="m", reward="r", search=[], methods=list(methods), budgets=["1"],
        judges={"own": judge}, prompts=4, prompts_per_job=2, device="cpu",
    )  # fmt: skip


def rows(method: str, own: list[float]) -> list[dict]:
    categories = ["one", "one", "one", "two"]
    return [
        {
            "method": method, "budget": 1.0, "unit": "TFLOPs", "prompt_id": f"p{at}",
            "category": category, "own": value, "reward": 2 * value, "held_out": np.nan, "n": 3,
            "spent": 0.9, "nfe": 30, "seconds": 2.0,
        }
        for at, (category, value) in enumerate(zip(categories, own, strict=True))
    ]  # fmt: skip


def test_means_are_over_prompts_or_over_categories() -> None:
    table = pd.DataFrame(rows("best-of-n", [0, 0, 1, 1]) + rows("ttsp", [0, 1, 1, np.nan]))
    for name, means in {
        "geneval": (2 / 3, 2 / 3, 1 / 3),
        "t2i-compbench": (0.5, 2 / 3, 1 / 3),
    }.items():
        first, second = summed(table, bench(name, "ttsp", "best-of-n"))
        assert (first["method"], second["method"]) == ("best-of-n", "ttsp")
        assert first["own"][0] == pytest.approx(means[0])
        assert second["own"][0] == pytest.approx(means[1])
        assert second["gain"][0] == pytest.approx(means[2])  # where both have a score
        assert first["gain"] is None is first["held_out"]
        assert first["reward"][0] == 1
    same = table[table.method == "best-of-n"]
    low, high = interval(same, "own", by_category=True)[1:]
    assert low < 2 / 3 < high
    text = markdown(table, bench("geneval", "best-of-n", "ttsp"))
    assert "| 1 TFLOPs | TTSp | 3 | 0.667 [" in text
    assert "GenEval by category:" in text
