"""The library is as docs/architecture.md says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from docs import architecture

ROOT = Path(__file__).parents[1]
LIMIT = 500  # lines of a file


def listed(problems: list[str]) -> str:
    return "\n" + "\n".join(problems)


def test_the_table_has_every_room_and_leads_down() -> None:
    plan = architecture.rooms(architecture.PAGE.read_text(encoding="utf-8"))
    files = architecture.LIBRARY.rglob("*.py")
    assert set(plan) == {architecture.room_of(file) for file in files} - {None}
    order = list(plan)
    for place, (name, room) in enumerate(plan.items()):
        assert room.may_import <= set(order[place + 1 :]), f"{name} may import what is not below it"
        assert name == "cli" or "shapes" not in room.may_import


def test_imports_run_one_way() -> None:
    plan = architecture.rooms(architecture.PAGE.read_text(encoding="utf-8"))
    wrong = architecture.violations(architecture.imports(), plan)
    assert not wrong, listed(wrong)


def test_no_files_import_one_another_in_a_circle() -> None:
    circle = architecture.circle(architecture.imports())
    assert not circle, listed(circle)


def test_no_file_is_long() -> None:
    lines = {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8").count("\n")
        for file in architecture.LIBRARY.rglob("*.py")
    }
    long = [f"{file}: {count} lines" for file, count in sorted(lines.items()) if count > LIMIT]
    assert not long, listed(long)


def test_every_file_says_what_it_is() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in sorted(architecture.LIBRARY.rglob("*.py"))
        if not (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").strip()
    ]
    assert not silent, listed(silent)


def test_the_picture_is_of_this_code() -> None:
    drawn = architecture.PICTURE.read_text(encoding="utf-8")
    assert drawn == architecture.picture(), "run `python docs/architecture.py`"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of which each import is of another sort."""
    files = {
        "house/__init__.py": "",
        "house/high.py": "def f():\n    from house.low import thing",
        "house/low/__init__.py": "from house.low.thing import make",
        "house/low/thing.py": (
            "import house.low.other\nif __name__ == '__main__':\n    import house.high"
        ),
        "house/low/other.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from house.low import thing\n"
            "NAMES = ['house.high.f', 'a.house.high', 'house.high']"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "house"


def test_every_sort_of_import_is_seen(library: Path) -> None:
    found = [
        (one.file.stem, one.line, one.target.stem, one.how) for one in architecture.imports(library)
    ]
    assert found == [
        ("high", 2, "thing", "when called"),
        ("__init__", 1, "thing", "when loaded"),
        ("other", 3, "thing", "for types"),
        ("other", 4, "high", "by name"),
        ("thing", 1, "other", "when loaded"),
    ]


def test_what_is_wrong_is_named(library: Path) -> None:
    plan = architecture.rooms("| 1 | `high` | a | `low` | b |\n| 0 | `low` | a | – | b |")
    found = list(architecture.imports(library))
    assert architecture.violations(found, plan, library) == [
        "house/low/other.py:4 imports house/high.py, and low must not import high"
    ]
    assert architecture.circle(found, library) == []
    (library / "low/other.py").write_text("def f():\n    from house.high import f")
    circle = architecture.circle(architecture.imports(library), library)
    assert sorted(set(circle)) == ["high.py", "low/other.py", "low/thing.py"]
