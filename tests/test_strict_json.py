"""JSON that every reader takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ttsnap.strict_json import dumps


def test_what_is_no_number_is_null() -> None:
    value = {1: (1.5, float("nan")), "b": [{"c": float("-inf")}], "d": "日\n"}
    assert json.loads(dumps(value)) == {"1": [1.5, None], "b": [{"c": None}], "d": "日\n"}
    assert dumps({"a": True}, indent=1) == '{\n "a": true\n}'


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        dumps({"a": Path("b")})
