"""What judges are asked, and how their answers are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ttsnap.errors import UserError
from ttsnap.rewards.judges.rubric import DEFAULT, RubricOptions, read_rubric

RUBRIC, METRIC = read_rubric(RubricOptions(), "judge")
ASPECTS = list(RUBRIC.aspects)

GRADE = st.integers(0, 10) | st.floats(0, 10).map(lambda value: round(value, 3))
FORMS = st.sampled_from(
    [
        lambda value: value,
        lambda value: {"score": value},
        lambda value: {"explanation": "It is {so} so.", "score": value},
        lambda value: {"score": f"{value}/10", "confidence": 3, "more": {"score": 1}},
        lambda value: {"score": f" {value} ", "explanation": None},
        lambda value: f"{value} out of 10",
    ]
)
PROSE = st.sampled_from(
    ["", "Sure!\n", "Here {is} my answer:\n", '{"score": 3} was my first idea.\n', "\ufeff", "{"]
)
THOUGHTS = st.sampled_from(
    [
        "",
        "<think>Six? {no}</think>\n",
        "Six at first.</think>",  # its template wrote the beginning
        "<THINKING>\n" + json.dumps(dict.fromkeys(ASPECTS, 1)) + "\n</THINKING>",
    ]
)
FENCES = st.sampled_from(
    [("", ""), ("```json\n", "\n```"), ("```", "```\nThat is all {}."), ("", "}")]
)


@given(
    st.lists(GRADE, min_size=len(ASPECTS), max_size=len(ASPECTS)),
    st.lists(FORMS, min_size=len(ASPECTS), max_size=len(ASPECTS)),
    st.permutations(ASPECTS),
    THOUGHTS,
    PROSE,
    FENCES,
    st.sampled_from([None, 0, 2]),
    st.dictionaries(st.text().filter(lambda key: key not in ASPECTS), st.text(), max_size=3),
)
def test_grades_are_read_however_they_are_dressed(
    grades: list[float],
    forms: list[Any],
    order: list[str],
    thoughts: str,
    prose: str,
    fence: tuple[str, str],
    indent: int | None,
    others: dict[str, str],
) -> None:
    expected = dict(zip(ASPECTS, grades, strict=True))
    dressed = {aspect: form(expected[aspect]) for aspect, form in zip(order, forms, strict=True)}
    text = json.dumps({**others, **dressed}, indent=indent)
    found = RUBRIC.read(f"{thoughts}{prose}{fence[0]}{text}{fence[1]}")
    assert found == expected
    assert all(isinstance(value, float) for value in found.values())


@given(st.text() | st.lists(st.sampled_from([*'{}[]":,0', "score", ASPECTS[0]])).map("".join))
def test_an_answer_is_read_or_refused_by_a_ValueError(answer: str) -> None:
    with pytest.raises(ValueError, match=r"^no JSON object$|is missing$|no score$|no number"):
        RUBRIC.read(answer)


@pytest.mark.parametrize("depth", [10, 100_000])
def test_deep_answers_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=r"no JSON object|is missing"):
        RUBRIC.read('{"a":[' * depth)
    with pytest.raises(ValueError, match=r"no JSON object|is missing"):
        RUBRIC.read("<think>" * depth)


@given(
    st.sampled_from(ASPECTS),
    st.integers(max_value=-1)
    | st.integers(min_value=11)
    | st.sampled_from(["", "seven", "7/5", "-1", "11", "7,5", "7/100", "1e1", True, None, [7], {}])
    | st.sampled_from([float("nan"), float("inf"), -0.5]),
    st.booleans(),
)
def test_what_is_no_grade_is_named(aspect: str, value: Any, alone: bool) -> None:
    grades: dict[str, Any] = {key: {"explanation": "so", "score": 5} for key in ASPECTS}
    grades[aspect] = value if alone else {"explanation": "so", "score": value}
    with pytest.raises(ValueError, match=rf"^{aspect} (is .*no number from 0 to 10|has no score)$"):
        RUBRIC.read(json.dumps(grades))


def test_the_last_whole_answer_counts() -> None:
    first, second = (json.dumps(dict.fromkeys(ASPECTS, value)) for value in (3, 8))
    assert RUBRIC.read(f"{first}\nOn second thought:\n{second} {{}}")[METRIC] == 8


def test_the_six_stand_in_a_file_and_the_last_is_the_score() -> None:
    assert list(yaml.safe_load(DEFAULT.read_text())["aspects"]) == ASPECTS
    assert len(ASPECTS) == 6
    assert METRIC == ASPECTS[-1] == "overall_score"
    for aspect, ideal in RUBRIC.aspects.items():
        assert f"- {aspect}: {ideal}.\n" in RUBRIC.instruction
    assert RUBRIC.answer_schema["required"] == ASPECTS


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_rubric_of_ones_own(tmp_path: Path, suffix: str) -> None:
    aspects = {"hands": "every hand has five fingers", "mood": "gloomy, as in «Nosferatu»"}
    file = tmp_path / f"my.{suffix}"
    dump = json.dumps if suffix == "json" else yaml.safe_dump
    file.write_text(dump({"aspects": aspects}))
    rubric, metric = read_rubric(RubricOptions(rubric=str(file)), "judge")
    assert metric == "mood"
    assert "- hands: every hand has five fingers.\n" in rubric.instruction
    assert "Grade hands: every hand has five fingers." in rubric.question("hands")
    assert rubric.read('{"mood": "7/10", "hands": 2}') == {"hands": 2, "mood": 7}
    assert list(rubric.answer_schema["properties"]) == ["hands", "mood"]
    assert read_rubric(RubricOptions(rubric=str(file), metric="hands"), "judge")[1] == "hands"
    with pytest.raises(UserError, match=r"judge\.options\.metric: legs is none of hands, mood"):
        read_rubric(RubricOptions(rubric=str(file), metric="legs"), "judge")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aspects: {}", "aspects: .*at least 1"),
        ("hands: good", "hands: unknown key|aspects: is missing"),
        ("aspects: {a: 3}", "aspects.a: should be a valid string, not 3"),
        ("aspects: {'two words': x}", "two words"),
        ("- a", "should be a section"),
        ("a: [", "is neither YAML nor JSON"),
        (b"\xff\xfe\xff", "is no text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | bytes | None, words: str) -> None:
    file = tmp_path / "rubric.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as refused:
        read_rubric(RubricOptions(rubric=str(file)), "judge")
    assert str(refused.value).startswith(f"rewards.judge.options.rubric: {file}: ")
    assert "\n" not in str(refused.value)
