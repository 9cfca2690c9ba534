"""The contact sheet of a search: who was looked at when, what came of whom, and who was dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ttsnap.drawing.grid import GUTTER, LINE, MARGIN, Grid
from ttsnap.drawing.style import WIDTH, styled
from ttsnap.drawing.words import label, scored
from ttsnap.schedule import DRAFT

if TYPE_CHECKING:
    from ttsnap.searching.result import Candidate, SearchResult

SIZES = (0.875, 0.75, 0.65, 0.55)  # inches, of a picture; the largest that shows all is taken
TALL = 5.9  # inches for the rows, so that a sheet fits a screen
GAP = 0.3  # between parts of a sheet, as a share of a picture's width


@dataclass
class _Layout:
    """Where the pictures of some looks stand.

    Attributes:
        rows: of pictures.
        columns: of pictures, gaps between them included.
        cells: candidate, step, row and column of each picture.
        heads: column and text above it; ``left`` are aligned with the picture's edge.
        branches: row and column of a picture and of one that came of it, in another row.
    """

    rows: int
    columns: float
    cells: list[tuple[Candidate, int, int, float]] = field(default_factory=list)
    heads: list[tuple[float, str]] = field(default_factory=list)
    left: list[tuple[float, str]] = field(default_factory=list)
    branches: list[tuple[tuple[int, float], tuple[int, float]]] = field(default_factory=list)

    @property
    def shown(self) -> int:
        """How many candidates are on it."""
        return len({id(one) for one, *_ in self.cells})


@styled
def contact_sheet(result: SearchResult, path: Path) -> None:
    """Draw who was seen and what became of it; dropped pictures are small and pale.

    Where candidates are looked at on the way, looks stand across and candidates below one another.
    One that branched off another starts at the look before, to which a line leads. Candidates seen
    once stand below, in the column of their step, those that the first look dropped to the right.

    Where only final images are looked at, a row shows what was tried from one candidate, the best
    first; all from nowhere are an array. The way to the winner is framed.

    The score of each look stands below its picture, and the number of those that have no room.

    Args:
        result: of any method.
        path: PNG or SVG to write.
    """
    candidates = result.candidates
    looks = sorted({step for candidate in candidates for step in candidate.scores})
    scores = [score for candidate in candidates for score in candidate.scores.values()]
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=1.0)
    seen = sorted((one for one in candidates if one.scores), key=_fate, reverse=True)
    shape = seen[0].thumbnails[max(seen[0].scores)].shape[:2]
    winner = candidates[result.winner]
    way = {id(winner), *map(id, _ancestors(winner, candidates))}
    climbed = len(looks) == 1 and any(one.parent is not None for one in seen)
    for size in SIZES:
        rows = int(TALL / (size * (shape[0] / shape[1] + GUTTER) + LINE))
        columns = (WIDTH - 2 * MARGIN) / size
        if climbed:
            layout = _moves(seen, candidates, way, rows, columns)
        else:
            layout = _fates(seen, candidates, looks, rows, columns)
        if layout.shown == len(seen):
            break

    grid = Grid(
        layout.rows,
        layout.columns,
        shape,
        result.prompt,
        subtitle=f"{label(result.method)}: {_count(len(candidates), 'candidate')}, "
        f"{result.spent:.3g} {result.unit}, best {result.reward} {scored(result.score, largest)}",
        scores=True,
        headed=bool(layout.heads or layout.left),
        size_of_cell=size,
    )
    for start, end in layout.branches:
        grid.branch(*start, *end)
    for one, step, row, column in layout.cells:
        won = one is winner and step == looks[-1]
        score = one.scores[step]
        words = scored(score, largest) if math.isfinite(score) else "failed"
        grid.picture(row, column, one.thumbnails[step], one.pruned_at == step)
        grid.below(row, column, words, highlighted=won)
        if won or (climbed and id(one) in way):
            grid.frame(row, column, bold=won)
    for column, words in layout.heads:
        grid.above(column, words)
    for column, words in layout.left:
        grid.above(column, words, align="left")
    notes = ["steps count from 0"] if layout.heads else []
    if climbed:
        notes.append("framed: the way to the winner")
    if any(one.pruned_at == step for one, step, *_ in layout.cells):
        notes.append("small and pale: dropped")
    if layout.shown < len(seen):
        notes.append(f"{len(seen) - layout.shown} more have no room here")
    grid.foot("; ".join(notes))
    grid.save(path)


def _fates(
    seen: Sequence[Candidate],
    candidates: Sequence[Candidate],
    looks: Sequence[int],
    most_rows: int,
    most_columns: float,
) -> _Layout:
    """Looks across, candidates down: who came furthest is chosen first, branches stay together."""
    paths = {id(one): _path(one, candidates) for one in seen}
    followed = [one for one in seen if len(paths[id(one)]) > 1]
    once = [one for one in seen if len(paths[id(one)]) == 1]
    first = [one for one in once if looks[0] in one.scores]
    later = {step: [one for one in once if step in one.scores] for step in looks[1:]}

    # Candidates stand in blocks beside each other if there is room for that.
    block = len(looks) + GAP
    fit = max(int((most_columns - bool(first)) / block), 1)
    blocks = min(-(-len(followed) // most_rows), fit)
    ways = _by_branch([paths[id(one)] for one in followed[: blocks * most_rows]])
    right = blocks * block
    free = max(int(most_columns - right), 1)
    each = -(-len(ways) // blocks) if blocks else 0
    last = len(ways) - each * (blocks - 1) if blocks else 0
    wanted = [each, *(last + len(those) for those in later.values()), -(-len(first) // free)]
    rows = min(max(wanted), most_rows)
    across = min(-(-len(first) // rows), free)
    layout = _Layout(rows, right + across if first else right - GAP)
    for part in range(blocks):
        placed: dict[tuple[int, int], tuple[int, float]] = {}
        for row, way in enumerate(ways[part * each : (part + 1) * each]):
            before: tuple[int, float] | None = None
            for step, other in way.items():
                here = (row, looks.index(step) + part * block)
                if (id(other), step) not in placed:
                    placed[id(other), step] = here
                    layout.cells.append((other, step, *here))
                    if before is not None and before[0] != row:
                        layout.branches.append((before, here))
                before = placed[id(other), step]
    for step, those in later.items():
        below = zip(range(last, rows), those, strict=False)
        column = looks.index(step) + max(blocks - 1, 0) * block
        layout.cells += [(one, step, row, column) for row, one in below]
    layout.cells += [
        (one, looks[0], i // across, right + i % across)
        for i, one in enumerate(first[: rows * across])
    ]
    if followed:
        numbers = [sum(step in one.scores for one in seen) for step in looks]
        filled = {column for *_, column in layout.cells}
        layout.heads = [
            (i + part * block, f"{_place(step)}\n{number} alive")
            for part in range(blocks)
            for i, (step, number) in enumerate(zip(looks, numbers, strict=True))
            if i + part * block in filled
        ]
        if first:
            at = "as drafts" if looks[0] == DRAFT else f"at step {looks[0]}"
            layout.left = [(right, f"dropped\n{at}")]
    return layout


def _moves(
    seen: Sequence[Candidate],
    candidates: Sequence[Candidate],
    way: set[int],
    most_rows: int,
    most_columns: float,
) -> _Layout:
    """A row for each candidate that others were tried from, in that order; the others last."""
    tried: dict[int, list[Candidate]] = {}
    for one in candidates:
        if one.scores and one.parent is not None:
            tried.setdefault(one.parent, []).append(one)
    parents = [index for index in tried if candidates[index].scores]
    others = [one for one in seen if one.parent is None and not tried.get(candidates.index(one))]
    # The way to the winner is shown in any case.
    chosen = sorted(parents, key=lambda index: id(candidates[index]) not in way)[:most_rows]
    across = int(most_columns - 1 - GAP)
    layout = _Layout(0, 0, left=[(0, "from"), (1 + GAP, "what was tried from it, best first")])
    for index in sorted(chosen, key=parents.index):
        moves = sorted(tried[index], key=_fate, reverse=True)[:across]
        parent = candidates[index]
        layout.cells.append((parent, max(parent.scores), layout.rows, 0))
        layout.cells += [
            (one, max(one.scores), layout.rows, 1 + GAP + i) for i, one in enumerate(moves)
        ]
        layout.rows += 1
    for start in range(0, len(others), across + 1):
        if layout.rows == most_rows:
            break
        layout.cells += [
            (one, max(one.scores), layout.rows, i + (GAP if i else 0))
            for i, one in enumerate(others[start : start + across + 1])
        ]
        layout.rows += 1
    layout.columns = max(column + 1 for *_, column in layout.cells)
    return layout


def _by_branch(paths: Sequence[dict[int, Candidate]]) -> list[dict[int, Candidate]]:
    """In the order given, but what has more looks in common is closer together."""
    looks = [[(step, id(one)) for step, one in path.items()] for path in paths]
    best: dict[tuple[int, int], int] = {}
    for place, path in enumerate(looks):
        for look in path:
            best.setdefault(look, place)
    order = sorted(range(len(paths)), key=lambda place: [best[look] for look in looks[place]])
    return [paths[place] for place in order]


def _ancestors(candidate: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Its parent, the parent of that, and so on."""
    found = []
    while candidate.parent is not None:
        candidate = candidates[candidate.parent]
        found.append(candidate)
    return found


def _path(candidate: Candidate, candidates: Sequence[Candidate]) -> dict[int, Candidate]:
    """Whose looks led to it, by step: its ancestors', if it was looked at again, and its own."""
    path = dict.fromkeys(candidate.scores, candidate)
    if candidate.rewards or len(candidate.scores) > 1:
        for ancestor in _ancestors(candidate, candidates):
            earliest = min(path)
            path |= {step: ancestor for step in ancestor.scores if step < earliest}
    return dict(sorted(path.items()))


def _place(step: int) -> str:
    return "draft" if step == DRAFT else f"step {step}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fate(candidate: Candidate) -> tuple[int, float]:
    """Orders candidates: how far one came, then its last score; one that failed comes last."""
    last = max(candidate.scores)
    score = candidate.scores[last]
    return last, score if math.isfinite(score) else -math.inf
