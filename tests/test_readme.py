"""What the README and the pages show must run as it stands, and their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from tests.stores import fill, make_store
from ttsnap.config import Config
from ttsnap.store.receipts import write_receipt
from ttsnap.store.tensors import RewardTensor

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

NOT_RUN = {
    "make ": "minutes; tests/workflow runs all rules on tiny models",
    ". .venv": "of the shell alone",
    "ttsnap search 'a lighthouse": "weights of the hub; tests/searching runs it on tiny models",
    "ttsnap fetch": "weights of the hub; tests/run/test_fetch.py has a hub of its own",
    "ttsnap estimate": "half a minute of a busy core; tests/run/test_workload.py runs it",
    "ttsnap status": "a finished run; so does tests/workflow/test_cli.py",
    "ttsnap verify": "a finished run; so does tests/workflow/test_cli.py",
    "ttsnap repair": "a finished run; so does tests/workflow/test_object_store.py",
    "snakemake": "minutes; the dry run is run",
}
"""How the README's commands begin that are only parsed here, and why."""

OTHERS = ["accelerate", "cd", "export", "git", "grep", "pip", "pre-commit", "scancel", "squeue"]
"""What the pages call that is not ours, and no more than named."""


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command in the shell blocks of a page, without the folder of a program."""
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if words := shlex.split(part, comments=True):
                    yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def parse(words: list[str]) -> None:
    """Fail if a program of this project does not take these arguments."""
    program, *rest = words
    match program:
        case "ttsnap":
            from ttsnap.cli import app

            command = typer.main.get_command(app)
            while rest and rest[0] in getattr(command, "commands", {}):
                command, rest = command.commands[rest[0]], rest[1:]
            command.make_context(" ".join(words), rest).close()
        case "snakemake":
            from snakemake.cli import parse_args

            complaint = StringIO()
            with redirect_stdout(complaint), redirect_stderr(complaint):
                try:
                    parse_args(rest)
                except SystemExit:
                    pytest.fail(f"{' '.join(words)}: {complaint.getvalue().splitlines()[-1]}")
        case "make":
            subprocess.run(["make", "-n", *rest], cwd=ROOT, check=True, capture_output=True)
        case "python":
            module = rest[1].replace(".", "/") + ".py" if rest[0] == "-m" else rest[0]
            assert (ROOT / module).is_file(), words
        case "python3":
            assert rest[:2] == ["-m", "venv"], words
        case ".":
            assert rest[0].endswith("/activate"), words
        case _:
            assert program in OTHERS or re.match(r"\w+=", program), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands(page.read_text(encoding="utf-8")):
        parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, heading = link.partition("#")
            there = page.parent / name if name else page
            assert there.exists(), link
            assert not heading or heading in headings(there), link


def headings(page: Path) -> set[str]:
    """What links to the headings of a page are called."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("words", [["ttsnap", "search", "--modle", "x"], ["snakemake", "--cores"]])
def test_a_mistake_would_be_seen(words: list[str]) -> None:
    with pytest.raises((typer._click.exceptions.UsageError, pytest.fail.Exception)):
        parse(words)


def test_the_commands_of_the_readme_run(
    ttsnap: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them one after the other, as in a clone whose run has rewards and a store."""
    monkeypatch.chdir(tmp_path)
    for name in ("ttsnap", "config", "Snakefile", "rules", "workflow", "envs", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (config,) = re.findall(r"^```yaml\n(# my.yaml.*?)^```", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "my.yaml").write_text(config)
    texts = json.loads((ROOT / "config/prompts/shapes.json").read_text())[:500]
    (tmp_path / "my_prompts.json").write_text(json.dumps(texts))
    run = tmp_path / "results" / yaml.safe_load(config)["run"]
    rewards(run, tmp_path / "tensors.npz")
    fill(make_store(run / "trajectories/test.zarr"), run / "trajectories/test")

    unused = dict(NOT_RUN)
    ran = []
    for words in commands(README):
        text = shlex.join(words)
        if words[0] == "snakemake" and words[-1] == "-n":
            done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        elif rows := [begin for begin in NOT_RUN if text.startswith(begin)]:
            unused.pop(rows[0], None)
            continue
        else:
            assert words[0] == "ttsnap", text
            assert ttsnap(*words[1:]) == 0, text
        ran.append(text)
    assert len(ran) > 8
    assert not unused, "nothing in the README begins like this"


def rewards(run: Path, released: Path) -> None:
    """Write rewards as a run has them, with its prices, and as an .npz."""
    config = Config()
    steps = config.sampling.steps
    random = np.random.default_rng(0)
    final = random.normal(size=(4, 36, 1))
    values = final + np.linspace(2, 0, steps) * random.normal(size=(4, 36, steps))
    values = values.astype(np.float32)
    for kind in ("base", "finetuned"):
        seeds = np.zeros((4, 36), np.int64)
        tensor = RewardTensor(values, list(range(steps)), list("abcd"), seeds)
        tensor.save(run / f"tensors/clip/val.{kind}.zarr")
    write_receipt(run / "model.json", {"kind": "model", "steps": steps})
    prices = {"denoise": 4.09e-4, "decode": 5.85e-5, "score": 7.76e-5}  # of the embedded world
    write_receipt(run / "rewards/clip/cost.json", {"unit": "TFLOPs", **prices})
    np.savez(released, clip_base=values)


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?from ttsnap import .*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 10
    (tmp_path / "ttsnap").symlink_to(ROOT / "ttsnap")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    found = names["found"]
    with Image.open(tmp_path / "found/best.png") as best:
        assert best.size == found.pil.size == (32, 32)
        assert best.text["prompt"] == names["prompt"]
    assert found.spent <= found.budget
    assert found._repr_png_().startswith(b"\x89PNG")
