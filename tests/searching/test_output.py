"""What a search leaves in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.searches import generator
from ttsnap.errors import UserError
from ttsnap.searching import Candidate, Round, SearchResult
from ttsnap.searching.output import (
    check_settings,
    diversity,
    events,
    is_finished,
    is_refused,
    row,
    save,
    save_refusal,
    write_settings,
)

PROMPT = "emoji 🦊 / and \n ../.."


def image(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


@pytest.fixture
def result() -> SearchResult:
    """Three candidates: one is pruned at step 1, one failed to be scored, one wins."""
    candidates = [Candidate(10 + i, noises=((10 + i,),), origin=f"seed {10 + i}") for i in range(3)]
    for i, candidate in enumerate(candidates):
        candidate.scores[1], candidate.thumbnails[1] = float(i), image(10 * i)
    candidates[0].pruned_at = 1
    for i, score in ((1, float("nan")), (2, 5.0)):
        candidates[i].scores[3], candidates[i].thumbnails[3] = score, image(100 * i)
        candidates[i].rewards = {"clip": score, "hps": 0.5}
    candidates[2].parent = 0
    return SearchResult(
        method="ttsp",
        prompt=PROMPT,
        negative_prompt="",
        generator=generator(),
        model="tiny",
        rewards=("clip", "hps"),
        options={"schedule": "1:0.7"},
        budget=12.0,
        planned=11.0,
        spent=10.5,
        unit="TFLOPs",
        nfe=10,
        decodes=5,
        scored=5,
        seconds=1.5,
        interrupted=False,
        winner=2,
        image=image(200),
        candidates=candidates,
        rounds=[Round(1, 2, 12, 5.0, "clip", 2, image(200))],
        finals={1: image(100), 2: image(200)},
    )


def test_what_is_saved(result: SearchResult, tmp_path: Path) -> None:
    save(result, tmp_path / "out", settings={"prompt_id": "p0"})
    assert {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.*")} == {
        "best.png",
        "contact.png",
        "finals/candidate_0001.png",
        "finals/candidate_0002.png",
        "rounds/round_1.json",
        "rounds/round_1.png",
        "trace.jsonl",
    }
    with Image.open(tmp_path / "out/best.png") as png:
        np.testing.assert_array_equal(np.array(png), result.image)
        text = png.text
    assert text["prompt"] == PROMPT
    assert (text["seed"], text["model"], text["method"]) == ("12", "tiny", "ttsp")
    assert (text["reward"], text["score"], text["budget"]) == ("clip", "5.0", "12 TFLOPs")
    assert json.loads(text["noises"]) == [[12]]
    assert json.loads((tmp_path / "out/rounds/round_1.json").read_text(encoding="utf-8")) == {
        "prompt": PROMPT,
        "search_round": 1,
        "num_noises": 2,
        "best_noise_seed": 12,
        "best_score": 5.0,
        "choice_of_metric": "clip",
        "best_img_path": "rounds/round_1.png",
    }


def test_the_trace_tells_every_event(result: SearchResult, tmp_path: Path) -> None:
    save(result, tmp_path, contact=False, settings={"prompt_id": "p0"})
    lines = (tmp_path / "trace.jsonl").read_text(encoding="utf-8").splitlines()
    trace = [json.loads(line) for line in lines]
    assert [event["event"] for event in trace] == [
        "search",
        *["start"] * 3,
        *["look"] * 3,
        "prune",
        *["look"] * 2,
        "winner",
    ]
    assert trace[0]["prompt"] == PROMPT
    assert trace[0]["prompt_id"] == "p0"
    assert trace[3] == {
        "event": "start",
        "candidate": 2,
        "seed": 12,
        "parent": 0,
        "origin": "seed 12",
        "noises": [[12]],
    }
    assert trace[7] == {"event": "prune", "candidate": 0, "step": 1}
    assert trace[8]["score"] is None  # it could not be scored
    assert trace[9]["rewards"] == {"clip": 5.0, "hps": 0.5}
    assert trace[-1]["spent"] == 10.5


def test_what_an_earlier_search_left_is_replaced(result: SearchResult, tmp_path: Path) -> None:
    for name in ("rounds/round_7.json", "finals/candidate_0009.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").write_text("not ours")
    save(result, tmp_path, contact=False)
    assert not list(tmp_path.rglob("*_7.*")) + list(tmp_path.rglob("*_0009.*"))
    assert (tmp_path / "notes.txt").is_file()


@pytest.mark.parametrize("interrupted", [False, True])
def test_only_a_whole_search_is_finished(
    result: SearchResult, tmp_path: Path, interrupted: bool
) -> None:
    assert not is_finished(tmp_path)
    object.__setattr__(result, "interrupted", interrupted)
    save(result, tmp_path, contact=False)
    assert is_finished(tmp_path) is not interrupted


def test_a_refusal_is_finished_too(tmp_path: Path) -> None:
    save_refusal(tmp_path / "p0", PROMPT, "none of 3 final images could be scored by judge")
    assert is_finished(tmp_path / "p0")
    assert is_refused(tmp_path / "p0")
    assert not is_refused(tmp_path)
    event = json.loads((tmp_path / "p0/trace.jsonl").read_text(encoding="utf-8"))
    assert (event["event"], event["prompt"]) == ("refused", PROMPT)


def test_a_folder_that_cannot_be_is_known_before_a_search(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out: cannot be made, .*file is a file"):
        check_settings(tmp_path / "file/out", {}, partly=True)


def test_a_folder_belongs_to_its_settings(tmp_path: Path) -> None:
    settings = {"seed": 1, "steps": {2: "a"}}
    check_settings(tmp_path / "new", settings)
    write_settings(tmp_path / "new", settings)
    check_settings(tmp_path / "new", settings)
    with pytest.raises(UserError, match=r'another steps \({"2": "a"}, not {}\)'):
        check_settings(tmp_path / "new", {"seed": 1, "steps": {}})
    with pytest.raises(UserError, match=r"another more \(null, not 1\)"):
        check_settings(tmp_path / "new", settings | {"more": 1})
    check_settings(tmp_path / "new", {"seed": 1}, partly=True)
    with pytest.raises(UserError, match=r"another seed \(1, not 2\)"):
        check_settings(tmp_path / "new", {"seed": 2}, partly=True)
    (tmp_path / "config.json").write_text("a note")
    with pytest.raises(UserError, match="not what `ttsnap search` wrote"):
        check_settings(tmp_path, settings)


def test_diversity_is_the_mean_distance_of_finals(result: SearchResult) -> None:
    assert diversity(result) == pytest.approx(100 / 255)
    result.candidates[1].rewards = {}
    assert diversity(result) is None


def test_a_row_for_the_table(result: SearchResult) -> None:
    found = row(result, "p0", oracle=0.5)
    assert found["prompt_id"] == "p0"
    assert found["reward"] == 5.0
    assert found["oracle"] == 0.5
    assert found["n"] == 3
    assert [*events(result)][-1]["nfe"] == found["nfe"] == 10
