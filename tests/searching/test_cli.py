"""The command ``ttsnap search`` on tiny models, without a run of the workflow."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import yaml
from PIL import Image

from tests.tiny import tiny_stable_diffusion
from tests.tiny_clip import tiny_clip
from ttsnap.config import load_config
from ttsnap.errors import UserError
from ttsnap.run.check import check
from ttsnap.searching import METHODS
from ttsnap.searching.budget import Budget
from ttsnap.searching.display import SearchView, interruptible
from ttsnap.searching.request import method_named, method_options, read_options, read_scheduler

Command = Callable[..., int]
TWO = ["a red circle", "emoji 🦊 / and \n ../.. $(date)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    tiny_stable_diffusion(folder / "generator")
    for seed, name in enumerate(("clip", "other")):
        tiny_clip(folder / name, seed)
    settings = {
        "model": {"path": "generator"},
        "sampling": {"steps": 4},
        "rewards": {"clip": {"path": "clip"}, "other": {"path": "other"}},
        "runtime": {"batch_size": 4},
        "judge": None,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    (folder / "prompts.json").write_text(json.dumps(TWO))
    return folder


@pytest.fixture
def ttsnap(ttsnap: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in the folder; gives its exit status."""
    monkeypatch.chdir(folder)
    return ttsnap


@pytest.fixture
def search(ttsnap: Command, tmp_path: Path) -> Command:
    """Search on the tiny models, in evaluations."""

    def command(*arguments: object) -> int:
        common = ("--config", "tiny.yaml", "--out", tmp_path, "--budget", "24nfe")
        return ttsnap("search", *common, *arguments)

    return command


def trace(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "trace.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def folders(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if path.is_dir())


def test_a_list_of_prompts_is_resumed(
    search: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--prompts", "prompts.json", "--method", "best-of-n")
    assert search(*arguments) == 0
    one, two = folders(tmp_path)  # named by ids, whatever the texts hold
    for done in (one, two):
        with Image.open(done / "best.png") as best:
            assert best.text["prompt"] in TWO
            assert best.text["budget"] == "24 NFE"
        last = trace(done)[-1]
        assert (last["event"], last["nfe"], last["interrupted"]) == ("winner", 24, False)
    kept = (one / "best.png").stat().st_mtime_ns
    (two / "trace.jsonl").unlink()  # as if it had been killed
    assert search(*arguments, "--resume") == 0
    assert "1 of 2 prompts were finished before" in capsys.readouterr().out
    assert (one / "best.png").stat().st_mtime_ns == kept
    assert trace(two)[-1]["event"] == "winner"


def test_a_table_of_prompts_with_ids_that_are_taken(
    search: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("id,caption,text,n\nconfig.json,no,a cat,1\nCat,no,a cat,2\ncat,no,a cat,3\n")
    out = ("--prompts", table, "--method", "best-of-n", "--out", tmp_path / "out")
    assert search(*out) == 1
    assert "caption and text could each hold the prompts" in capsys.readouterr().err
    assert search(*out, "--prompt-column", "text") == 0
    found = {
        trace(one)[0]["prompt_id"]: trace(one)[0]["prompt"] for one in folders(tmp_path / "out")
    }
    assert found == dict.fromkeys(("config.json", "Cat", "cat"), "a cat")
    assert (tmp_path / "out/config.json").is_file()
    assert search(*out, "--prompt-column", "text", "--resume") == 0
    assert "3 of 3 prompts were finished before" in capsys.readouterr().out


def test_a_folder_belongs_to_one_search(
    search: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("a", "--method", "best-of-n") == 0
    assert search("b", "--method", "best-of-n") == 0  # more of the same
    assert len(folders(tmp_path)) == 2
    assert search("a", "--method", "best-of-n", "--seed", 1) == 1
    error = capsys.readouterr().err
    assert "holds a search with another seed (0, not 1); choose another --out" in error
    assert error.count("\n") == 1


def test_ctrl_c_keeps_the_best_so_far(
    search: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal arrives while the second batch of the first prompt is denoised."""
    observe = SearchView.observe

    def observed(view: SearchView, progress: object) -> None:
        observe(view, progress)
        if progress.n == 8 and not view.stopping:
            os.kill(os.getpid(), signal.SIGINT)

    arguments = (*TWO, "--method", "best-of-n", "--budget", "48nfe")
    with monkeypatch.context() as patched:
        patched.setattr(SearchView, "observe", observed)
        assert search(*arguments) == 130
    assert "interrupted: 0 of 2 prompts finished" in capsys.readouterr().out
    (only,) = folders(tmp_path)
    assert (only / "best.png").is_file()
    last = trace(only)[-1]
    assert last["interrupted"]
    assert 0 < last["nfe"] < 24
    assert search(*arguments, "--resume") == 0
    assert len(folders(tmp_path)) == 2
    assert not trace(only)[-1]["interrupted"]


def test_a_second_ctrl_c_ends_it() -> None:
    stop, view = Event(), SearchView("a", "", 4)

    def twice() -> None:
        with interruptible(stop, view):
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.is_set()
            assert view.stopping
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on after the second")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_finals_and_several_rewards(search: Command, tmp_path: Path) -> None:
    other = "clip:other"  # by kind and path instead of its name
    assert search("a", "--method", "best-of-n", "--reward", f"clip,{other}", "--keep-finals") == 0
    (found,) = folders(tmp_path)
    assert len(list(found.glob("finals/candidate_*.png"))) == 6
    assert set(trace(found)[-1]["rewards"]) == {"clip", "other"}


def test_a_search_over_noise_takes_a_stochastic_sampler(
    search: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("a", "--method", "rejection", "--scheduler", "EulerDiscreteScheduler") == 1
    assert "method rejection: searches the noise of the steps" in capsys.readouterr().err
    assert search("a", "--method", "rejection", "--out", tmp_path / "x") == 0
    settings = json.loads((tmp_path / "x/config.json").read_text())
    assert settings["sampling"]["scheduler"]["options"] == {"eta": 1.0}
    ancestral = ("--scheduler", "EulerAncestralDiscreteScheduler")
    assert search("a", "--method", "beam", *ancestral, "--out", tmp_path / "y") == 0
    assert search("a", "--method", "random", *ancestral, "--out", tmp_path / "z") == 0


JUDGE = """
import numpy as np

class Judge:
    name, scale = "judge", "1 where it agrees to look"

    @classmethod
    def load(cls, settings, *, name, device, checkpoint):
        return cls()

    def score(self, images, prompts):
        return np.array([np.nan if "forbidden" in text else 1.0 for text in prompts])

    def tflops(self, height, width):
        return 0.0
"""


def test_a_list_goes_past_a_prompt_that_the_judge_refuses(
    search: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "judging.py").write_text(JUDGE)
    asked = ("a forbidden circle", "a red circle", "--method", "best-of-n")
    asked += ("--reward", "judging:Judge")
    assert search(*asked) == 1
    said = capsys.readouterr()
    assert "✗ a forbidden circle" in said.out
    assert "✓ a red circle" in said.out
    assert "1 of 2 prompts could not be scored" in said.err
    assert said.err.count("\n") == 1
    endings = sorted(trace(found)[-1]["event"] for found in folders(tmp_path))
    assert endings == ["refused", "winner"]
    assert search(*asked, "--resume") == 0
    assert "2 of 2 prompts were finished before, 1 of them refused" in capsys.readouterr().out


def test_a_schedule_and_seconds(search: Command, tmp_path: Path) -> None:
    arguments = ("a", "--method", "ttsp", "--schedule", "1:0.5", "--budget", "0.5s")
    assert search(*arguments) == 0
    (found,) = folders(tmp_path)
    events = trace(found)
    assert events[0]["unit"] == "seconds"
    assert {event["event"] for event in events} == {"search", "start", "look", "prune", "winner"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "expected a PROMPT, or --prompts FILE, and not both"),
        (["a", "--method", "bem"], "method bem: unknown; did you mean beam?"),
        (["a", "--method", "beam", "--plan", "x"], "beam prunes nothing; leave out --plan"),
        (
            ["a", "--method", "beam", "--option", "bems=2"],
            "has no option bems; it has beams,",
        ),
        (["a", "--method", "ttsp", "--narf"], "with checkpoints it is ttsnap"),
        (["a", "--method", "ttsp", "--option", "schedule=0:2"], "keep must lie in (0, 1]"),
        (["a", "--method", "beam", "--option", "beams"], "'beams': expected KEY=VALUE"),
        (["a", "--reward", "hps"], "reward: hps is neither MODULE:CLASS nor aesthetic,"),
        (["a", "--reward", "clip,clip"], "--reward clip,clip: clip is listed twice"),
        (
            ["a", "--model", "some/model"],
            "nor is it in the cache: fetch it where",
        ),
        (["a", "--method", "ttsnap", "--schedule", "1:0.5"], "there is no run that trained any"),
        (["a", "--method", "best-of-n", "--budget", "5m"], "expected a number above 0 with"),
        (["a", "--method", "ttsp", "--schedule", "3:0.5"], "step 3 is too late"),
        (["a", "--method", "best-of-n", "--reward", "clip:no/such/clip"], "neither a local path"),
        (["a", "--method", "best-of-n", "--reward", "nowhere:Judge"], "nowhere:Judge cannot be"),
        (["a", "--method", "best-of-n", "--out", "tiny.yaml/out"], "tiny.yaml is a file"),
        (["a", "--method", "best-of-n", "--out", "other"], "holds a search with another method"),
        (["--prompts", "none.txt", "--method", "best-of-n"], "none.txt: cannot be read"),
    ],
)
def test_bad_input_is_one_line_before_a_model_is_loaded(
    search: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    complaint: str,
) -> None:
    def load(*_: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("ttsnap.diffusion.load_sampler", load)
    assert search(*arguments) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("2000tflops", 2000, "TFLOPs"),
        ("1e3 TFLOPs", 1000, "TFLOPs"),
        ("400nfe", 400, "NFE"),
        ("1.5s", 1.5, "seconds"),
        (".04", 0.04, "TFLOPs"),
    ],
)
def test_budgets(text: str, value: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(value, unit)


@pytest.mark.parametrize("text", ["", "0", "-1s", "nan", "inf", "5m", "nfe", "1,5s", "4 0nfe"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(UserError, match="expected a number above 0 with tflops, nfe or s"):
        Budget.parse(text)


def test_options_and_schedulers() -> None:
    beam = method_named("beam")
    assert method_options(beam, read_options(["beams=3", "steps=[1, 2]"])).model_dump() == {
        **beam.options().model_dump(),
        "beams": 3,
        "steps": [1, 2],
    }
    with pytest.raises(UserError, match=r"beam: beams: Input should be .*, not 0"):
        method_options(beam, {"beams": 0})
    with pytest.raises(UserError, match="ttsp: needs schedule: Checks"):
        method_options(method_named("ttsp"), {})
    assert read_scheduler("DDIMScheduler,eta=0.5").options == {"eta": 0.5}
    with pytest.raises(UserError, match="expected a class of diffusers"):
        read_scheduler("ddim")


def test_the_configuration_knows_every_method() -> None:
    check(load_config({"search": {"methods": list(METHODS)}}), workflow=True)
