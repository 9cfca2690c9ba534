"""The page in which a run ends."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from tests import chromium
from tests.workflow.conftest import PROMPTS, Workflow
from ttsnap.report.page import compared, headline_words, page
from ttsnap.run.status import SETTINGS


@pytest.fixture(scope="module")
def html(finished: Workflow) -> str:
    return (finished.run / "report.html").read_text(encoding="utf-8")


def settings_of(run: Path) -> dict:
    return json.loads((run / SETTINGS).read_text(encoding="utf-8"))


def test_it_needs_no_other_file(html: str) -> None:
    targets = re.findall(r'(?:src|href)="([^"]*)"', html) + re.findall(r"url\(([^)]*)\)", html)
    assert targets
    assert {one.partition(":")[0] for one in targets if not one.startswith("#")} == {"data"}
    assert "<script" not in html
    assert "@import" not in html


def test_what_it_refers_to_is_in_it(html: str) -> None:
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:popovertarget="|href="#|url\(#)([^")]+)', html)
    assert set(wanted) <= set(ids)
    assert set(re.findall(r"var\((--\w+)\)", html)) <= {*re.findall(r"(--\w+):", html)}


def test_it_shows_every_test_prompt_as_it_is(html: str) -> None:
    """Two methods and five prompts, each with its contact sheet; quotes and tags stay text."""
    assert html.count("popovertargetaction") == 2 * 5
    shown = unescape(html)
    for prompt in PROMPTS[9:14]:
        assert f"<h3>{prompt}</h3>" in shown
    assert "at the same compute" in html
    assert "seconds per prompt" not in html  # letters are outlines: no font is needed


def test_a_prompt_cannot_write_the_page(finished: Workflow, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.run, run, ignore=shutil.ignore_patterns("*.zarr", "narf"))
    for trace in run.glob("search/*/*/*/trace.jsonl"):
        first, *rest = trace.read_text(encoding="utf-8").splitlines()
        event = json.loads(first) | {"prompt": '<script>alert("x")</script>'}
        trace.write_text("\n".join([json.dumps(event), *rest]), encoding="utf-8")
    text = page(run, settings_of(run))
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text


@pytest.mark.parametrize("methods", [["best-of-n"], ["ttsnap"], ["best-of-n", "beam"]])
def test_a_piece_that_is_missing_has_no_place(
    finished: Workflow, tmp_path: Path, methods: list[str]
) -> None:
    """One method, or none that prunes; neither judge nor figures nor contact sheets."""
    run = tmp_path / "run"
    ignored = shutil.ignore_patterns("*.zarr", "narf", "contact.png", "report", "simulation")
    shutil.copytree(finished.run, run, ignore=ignored)
    results = pd.read_parquet(run / "search/results.parquet")
    results[results.method.isin(methods)].to_parquet(run / "search/results.parquet")
    summary = json.loads((run / "summary.json").read_text())
    live = [row for row in summary["live"] if {row["method"], "best-of-n"} <= {*methods}]
    (run / "summary.json").write_text(json.dumps({"rewards": {}, "live": live}))
    settings = settings_of(run)
    settings["search"]["methods"] = methods
    text = page(run, settings)
    assert "<svg" not in text
    assert "popovertarget" not in text
    assert "captions that hold" not in text
    assert "undefined" not in text
    assert "nan" not in re.sub('data:[^"]*', "", text)


def test_the_headline_says_what_the_interval_says() -> None:
    rows = [
        {"method": name, "budget": 1.0, "reward": 2.0, "oracle": 1.0, "seconds": 1.0}
        for name in ("best-of-n", "ttsnap")
    ]
    results = pd.DataFrame(rows)
    for low, high, words in ((0.1, 0.3, "better"), (-0.3, -0.1, "worse"), (-0.1, 0.3, "alike")):
        gain = {"mean": (low + high) / 2, "low": low, "high": high}
        live = [{"method": "ttsnap", "budget": 1.0, "prompts": 9, "reward": gain, "oracle": gain}]
        found = headline_words(live, results, ["best-of-n", "ttsnap"], 1.0)
        assert words in found["title"]
        assert ("chance" in found["facts"][1][2]) is (low < 0 < high)


def test_the_search_beside_best_of_n_is_the_last_that_prunes() -> None:
    assert compared(["best-of-n", "ttsp", "ttsnap@preview", "beam"]) == [
        "best-of-n",
        "ttsnap@preview",
    ]
    assert compared(["beam", "best-of-n"]) == ["best-of-n", "beam"]
    assert compared(["best-of-n"]) == ["best-of-n"]


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_cut_off_in_a_browser(finished: Workflow, tmp_path: Path, width: int) -> None:
    try:
        program = chromium.install()
    except chromium.Unavailable as reason:
        pytest.skip(str(reason))
    seen, console = chromium.look(program, finished.run / "report.html", width, tmp_path)
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["images"] >= 2 * 2 * 5
    assert seen["broken"] == 0
    assert seen["requests"] == []
    assert console == []
