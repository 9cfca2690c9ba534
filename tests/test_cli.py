"""The ``ttsnap`` command as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import ttsnap as library
from ttsnap.cli import app

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]

TABLES = {
    "methods",
    "models",
    "simulate",
    "plan",
    "plans",
    "costs",
    "rewards",
    "status",
    "estimate",
    "summary",
}


def run(*arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ttsnap", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_as_a_module() -> None:
    assert "Usage: python -m ttsnap" in run("--help")


def test_the_version(ttsnap: Command, capsys: Captured) -> None:
    assert ttsnap("--version") == 0
    assert capsys.readouterr().out == f"ttsnap {library.__version__}\n"


def test_no_command_is_help(ttsnap: Command, capsys: Captured) -> None:
    ttsnap()
    shown = capsys.readouterr()
    assert "Usage" in shown.out + shown.err


def test_a_shell_completes_commands_and_options() -> None:
    line = {"_TTSNAP_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    found = subprocess.run(
        [Path(sys.executable).with_name("ttsnap")],
        env=os.environ | line | {"COMP_WORDS": "ttsnap me"},
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == ["methods"]


def test_every_table_can_be_json() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    with_json = {
        name
        for name, command in commands.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert with_json == TABLES


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (("methods",), lambda found: [one["name"] for one in found if one["default"]] == ["ttsp"]),
        (("models",), lambda found: "sdxl" in {one["family"] for one in found["families"]}),
        (("rewards",), lambda found: "clip" in {one["kind"] for one in found}),
        (("rewards", "ensemble"), lambda found: "rewards" in found["options"]),
        (("rewards", "brightness"), lambda found: found["options"] == {}),
        (("plans",), lambda found: {one["family"] for one in found} >= {"flux"}),
        (("costs", "sd15"), lambda found: found["denoise"] > found["decode"] / 20 > 0),
        (("estimate",), lambda found: found["all"]["jobs"] > len(found["stages"]) > 5),
        (("status",), lambda found: all(one["done"] <= one["jobs"] for one in found["stages"])),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_tables_hold_as_json(
    ttsnap: Command, capsys: Captured, arguments: tuple[str, ...], holds: Callable[[Any], bool]
) -> None:
    assert ttsnap(*arguments, "--json") == 0
    assert holds(json.loads(capsys.readouterr().out))
