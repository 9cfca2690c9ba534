"""Draws docs/images/architecture.svg from the imports, and holds them to docs/architecture.md.

    python docs/architecture.py

The table on that page is the one place that says which rooms there are, on which floor each stands
and what it may import; tests/test_architecture.py compares the library with it. A room is a folder
or a file of ``ttsnap/``. Files whose name ends in ``cli.py`` hold the commands of their folder and
belong to the room ``cli``, as does ``__main__.py``. ``ttsnap/__init__.py``, the front door, belongs
to none.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from html import escape
from pathlib import Path
from textwrap import wrap

DOCS = Path(__file__).parent
LIBRARY = DOCS.parent / "ttsnap"
PAGE = DOCS / "architecture.md"
PICTURE = DOCS / "images/architecture.svg"

WIDTH, SIDE, BOX, HEIGHT, PITCH = 1120, 40, 232, 62, 108  # pixels
ANNEXE = 186  # what a room beside the building takes of the width
LANE = 9  # between arrows that pass through the same gap


@dataclass(frozen=True)
class Room:
    """A row of the table; ``floor`` is None beside the building, 0 at the ground."""

    name: str
    floor: int | None
    purpose: str
    may_import: frozenset[str]


@dataclass(frozen=True)
class Import:
    """``file`` imports ``target``, both files of the library.

    ``how`` is "when loaded", "when called" or "for types", or "by name" of a text that names it.
    """

    file: Path
    line: int
    target: Path
    how: str


def rooms(page: str) -> dict[str, Room]:
    """The rows of the page's table, from the top floor to the ground, left to right."""
    rows = re.findall(r"^\| (\d|–) \| `(\w+)` \| (.+?) \| (.+?) \| .+? \|$", page, re.MULTILINE)
    floors = {name: None if floor == "–" else int(floor) for floor, name, *_ in rows}
    found = {}
    for _, name, purpose, may in rows:
        floor = floors[name]
        allowed = set(re.findall(r"`(\w+)`", may))
        if may.startswith("all below"):
            assert floor is not None
            allowed |= {other for other, at in floors.items() if at is not None and at < floor}
        if "ground" in may:
            allowed |= {other for other, at in floors.items() if at == 0}
        found[name] = Room(name, floor, purpose, frozenset(allowed))
    return found


def room_of(file: Path, library: Path = LIBRARY) -> str | None:
    """The room of a file; None of the front door."""
    if file.name.endswith(("cli.py", "__main__.py")):
        return "cli"
    top = file.relative_to(library).parts[0].removesuffix(".py")
    return None if top == "__init__" else top


def imports(library: Path = LIBRARY) -> Iterator[Import]:
    """All imports of one file of the library by another, wherever in the file they stand.

    What a file does if it is run as a program is left out: then it stands above all rooms.
    """
    for file in sorted(library.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        how: dict[ast.AST, str] = {}
        for node in ast.walk(tree):
            way = _way(node)
            how |= dict.fromkeys(ast.walk(node), way) if way else {}
        for node in ast.walk(tree):
            way = "by name" if isinstance(node, ast.Constant) else how.get(node, "when loaded")
            for target in sorted({_file(name, library) for name in _names(node, library)} - {file}):
                if how.get(node) != "when run":
                    yield Import(file, getattr(node, "lineno", 0), target, way)


def _way(node: ast.AST) -> str | None:
    """When what stands in a block is imported, if it is one that says so."""
    match node:
        case ast.If() if "TYPE_CHECKING" in ast.unparse(node.test):
            return "for types"
        case ast.If() if "__name__" in ast.unparse(node.test):
            return "when run"
        case ast.FunctionDef():
            return "when called"
    return None


def _names(node: ast.AST, library: Path) -> list[str]:
    """The dotted names in the library that are imported here."""
    names: list[str] = []
    match node:
        case ast.Import():
            names = [alias.name for alias in node.names]
        case ast.ImportFrom(module=str(module)):
            names = [f"{module}.{alias.name}" for alias in node.names]
        case ast.Constant(value=str(text)) if re.fullmatch(r"\w+(\.\w+){2,}", text):
            names = [text]
    return [name for name in names if name.split(".")[0] == library.name]


def _file(name: str, library: Path) -> Path:
    """The file of a module of the library, or of what is in it."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        place = library.joinpath(*parts[:end])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return library / "__init__.py"


def arrows(found: Iterable[Import], library: Path = LIBRARY) -> Counter[tuple[str, str]]:
    """How many imports lead from a room to another."""
    ends = ((room_of(one.file, library), room_of(one.target, library)) for one in found)
    return Counter((a, b) for a, b in ends if a and b and a != b)


def violations(
    found: Iterable[Import], plan: dict[str, Room], library: Path = LIBRARY
) -> list[str]:
    """Imports that the table does not allow, in words."""
    wrong = []
    for one in found:
        here, there = room_of(one.file, library), room_of(one.target, library)
        if here in plan and there in plan and here != there and there not in plan[here].may_import:
            place, target = (file.relative_to(library.parent) for file in (one.file, one.target))
            wrong.append(f"{place}:{one.line} imports {target}, and {here} must not import {there}")
    return wrong


def circle(found: Iterable[Import], library: Path = LIBRARY) -> list[str]:
    """Files that import one another in a circle, if any do.

    Imports for types and by name do not count: a registry names its entries, which may ask it for
    others. Nor does the front door, where everybody may look at the version.
    """
    graph: dict[str, set[str]] = {}
    for one in found:
        if one.how.startswith("when") and library / "__init__.py" not in (one.file, one.target):
            file, target = (str(path.relative_to(library)) for path in (one.file, one.target))
            graph.setdefault(file, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def draw(plan: dict[str, Room], drawn: Iterable[tuple[str, str]]) -> str:
    """The picture: rooms on floors, an arrow for each import that no other arrows imply."""
    top = max(room.floor for room in plan.values() if room.floor is not None)
    floors = [
        [name for name, room in plan.items() if room.floor == floor] for floor in range(top, 0, -1)
    ]
    ground = [name for name, room in plan.items() if room.floor == 0]
    beside = [name for name, room in plan.items() if room.floor is None]
    inner = WIDTH - ANNEXE
    place: dict[str, tuple[float, float]] = {}  # centre and upper edge
    for row, names in enumerate(floors):
        for column, name in enumerate(names):
            share = (column + 0.5) / len(names)
            place[name] = (SIDE + share * (inner - 2 * SIDE), SIDE + row * PITCH)
    for row, name in enumerate(beside):
        place[name] = (WIDTH - ANNEXE / 2, SIDE + row * PITCH)
    edges = _reduced({(a, b) for a, b in drawn if a in place and b in place})
    height = SIDE + len(floors) * PITCH + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        "<title>The rooms of ttsnap, floor by floor, and who imports whom</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.5 8 4 0 7.5z" fill="#5b6b7a"/>'
        "</marker></defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for row in range(len(floors)):
        y = SIDE + row * PITCH - 18
        parts.append(
            f'<rect x="12" y="{y}" width="{inner - 24}" height="{HEIGHT + 36}" rx="8" '
            f'fill="{"#f3f6f9" if row % 2 else "#eaeff4"}"/>'
        )
    parts += [
        f'<path d="{path}" fill="none" stroke="#5b6b7a" stroke-width="1.3" marker-end="url(#tip)"/>'
        for path in _paths(edges, plan, place, floors)
    ]
    for name, (x, y) in place.items():
        width = BOX if name not in beside else ANNEXE - 28
        lines = wrap(plan[name].purpose.replace("`", ""), 36 if name not in beside else 25)
        parts += _box(name, lines, x, y, width)
    y = SIDE + len(floors) * PITCH
    words = "the ground: knows nothing of the floors above, and every room may use it"
    parts += [
        f'<rect x="12" y="{y - 8}" width="{inner - 24}" height="56" rx="8" fill="#d5dee6"/>',
        _text(inner / 2, y + 15, " · ".join(ground), 15, "#16324a", bold=True),
        _text(inner / 2, y + 35, words, 11.5, "#40566a"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _reduced(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that a longer way along others leads, too."""

    def reachable(start: str, without: tuple[str, str]) -> set[str]:
        seen, open_ = set(), [start]
        while open_:
            here = open_.pop()
            further = {b for a, b in edges if a == here and (a, b) != without} - seen
            seen |= further
            open_ += further
        return seen

    return sorted(edge for edge in edges if edge[1] not in reachable(edge[0], edge))


def _paths(
    edges: list[tuple[str, str]],
    plan: dict[str, Room],
    place: dict[str, tuple[float, float]],
    floors: list[list[str]],
) -> Iterator[str]:
    """The arrows, each from the lower edge of a box to the upper one of another.

    On its way one passes the floors in between through the gap that is next to the straight line.
    """
    leaving = {
        name: sorted(b for a, b in edges if a == name and _down(a, b, place)) for name in place
    }
    coming = {
        name: sorted(a for a, b in edges if b == name and _down(a, b, place)) for name in place
    }
    for ends in (leaving, coming):
        for names in ends.values():
            names.sort(key=lambda name: place[name])
    used: Counter[tuple[int, int]] = Counter()
    row_of = {name: row for row, names in enumerate(floors) for name in names}
    for a, b in edges:
        (ax, ay), (bx, by) = place[a], place[b]
        if not _down(a, b, place):
            half_a, half_b = (
                BOX / 2 if plan[x].floor is not None else ANNEXE / 2 - 14 for x in (a, b)
            )
            yield f"M{ax + half_a:.1f} {ay + HEIGHT / 2:.1f}H{bx - half_b - 2:.1f}"
            continue
        x, y = ax + _port(leaving[a].index(b), len(leaving[a])), ay + HEIGHT
        end = bx + _port(coming[b].index(a), len(coming[b]))
        path = f"M{x:.1f} {y:.1f}"
        for row in range(row_of[a] + 1, row_of[b]):
            upper = SIDE + row * PITCH
            straight = x + (end - x) * (upper - y) / (by - y)
            gaps = _gaps([place[name][0] for name in floors[row]])
            gap = min(range(len(gaps)), key=lambda i: abs(gaps[i] - straight))
            lane = used[row, gap]
            used[row, gap] += 1
            x_next = gaps[gap] + LANE * (-(-lane // 2) * (-1) ** lane)
            path += f"{_curve(x, y, x_next, upper)}V{upper + HEIGHT:.1f}"
            x, y = x_next, upper + HEIGHT
        yield path + _curve(x, y, end, by - 2)


def _down(a: str, b: str, place: dict[str, tuple[float, float]]) -> bool:
    return place[a][1] < place[b][1]


def _port(index: int, count: int) -> float:
    """Where at the edge of a box an arrow begins or ends, from its middle."""
    return (index - (count - 1) / 2) * min(30, 0.8 * BOX / max(count, 1))


def _gaps(centres: list[float]) -> list[float]:
    """The middles of what is free on a floor."""
    edges = [
        12 + 9.0,
        *(x + side * BOX / 2 for x in centres for side in (-1, 1)),
        WIDTH - ANNEXE - 21,
    ]
    return [(edges[i] + edges[i + 1]) / 2 for i in range(0, len(edges), 2)]


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = (y + to_y) / 2
    return f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"


def _box(name: str, lines: list[str], x: float, y: float, width: float) -> list[str]:
    return [
        f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width}" height="{HEIGHT}" rx="6" '
        'fill="#ffffff" stroke="#0b6fb8" stroke-width="1.4"/>',
        _text(x, y + 19, name, 15, "#0b5a96", bold=True),
        *(_text(x, y + 36 + 15 * i, line, 11.5, "#40566a") for i, line in enumerate(lines)),
    ]


def _text(x: float, y: float, words: str, size: float, colour: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="middle"{weight}>{escape(words)}</text>'
    )


def picture() -> str:
    """The SVG of the library as it is; what the table does not allow is not drawn."""
    plan = rooms(PAGE.read_text(encoding="utf-8"))
    found = arrows(imports())
    return draw(plan, ((a, b) for a, b in found if a in plan and b in plan[a].may_import))


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
