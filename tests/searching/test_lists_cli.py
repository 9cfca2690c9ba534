"""The commands ``ttsnap methods`` and ``ttsnap models``."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ttsnap.searching import METHODS
from ttsnap.searching.methods import DEFAULT

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttsnap.searching.lists_cli.console.width", 300)


def test_methods_lists_all_with_their_options(ttsnap: Command, capsys: Captured) -> None:
    assert ttsnap("methods") == 0
    lines = capsys.readouterr().out.splitlines()
    first = [line.split("  ")[0] for line in lines]
    for name, method in METHODS.items():
        assert f"{name} (default)" * (name == DEFAULT) or name in first
        assert all(
            any(f"  {one}=" in line for line in lines) for one in method.options.model_fields
        )
    assert sum("(default)" in line for line in lines) == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_explained(ttsnap: Command, capsys: Captured, name: str) -> None:
    assert ttsnap("methods", name) == 0
    shown = capsys.readouterr().out
    method = METHODS[name]
    assert shown.startswith(f"{name}: {method.summary}")
    assert ("(default)" in shown) == (name == DEFAULT)
    # Best-of-N, with or without noise at every step, is nobody's.
    assert ("arXiv 2" in shown) == (name not in ("best-of-n", "rejection"))
    assert ("Searches the noise of the steps" in shown) == method.needs_noise
    assert ("NegToMe acts" in shown) == method.negtome
    for option, field in method.options.model_fields.items():
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{option} "))
        assert field.description in line
        assert field.is_required() or f" {json.dumps(field.default)} " in line


def test_explained_as_json(ttsnap: Command, capsys: Captured) -> None:
    assert ttsnap("methods", "mcts", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["options"]["noises"] == {
        "description": "Children of a node: noises tried at a step.",
        "default": 4,
    }
    assert (found["needs_noise"], found["negtome"], found["default"]) == (True, False, False)
    assert ttsnap("methods", "--json") == 0
    every = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in every] == [*METHODS]
    assert found in every
    assert (
        "default" not in next(one for one in every if one["name"] == "ttsp")["options"]["schedule"]
    )


def test_no_such_method(ttsnap: Command, capsys: Captured) -> None:
    assert ttsnap("methods", "beem") == 1
    assert capsys.readouterr().err == "ttsnap: method beem: unknown; did you mean beam?\n"


def test_models_lists_the_families(ttsnap: Command, capsys: Captured) -> None:
    assert ttsnap("models") == 0
    assert "StableDiffusionPipeline" in capsys.readouterr().out
