"""The contact sheet of a search: who was looked at when, and who was pruned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ttsnap.drawing.grid import Grid
from ttsnap.drawing.style import styled
from ttsnap.drawing.words import label, scored
from ttsnap.searching.result import Candidate, SearchResult

ROWS = 14  # of a contact sheet, at most
ACROSS = 8  # pictures in a row of one, at most


@styled
def contact_sheet(result: SearchResult, path: Path) -> None:
    """Looks across, candidates down, best fate first; each is dimmed where it was pruned.

    The score of each look stands below its picture. A candidate that finished as a branch of
    another one begins with the other's looks. Candidates seen once stand below, in the column of
    their step; those that the first look dropped fill the columns to the right, as do all
    candidates of a search that only looks at final images. What does not fit is counted below.

    Args:
        result: of any method.
        path: PNG or SVG to write.
    """
    candidates = result.candidates
    looks = sorted({step for candidate in candidates for step in candidate.scores})
    scores = [score for candidate in candidates for score in candidate.scores.values()]
    largest = max((abs(score) for score in scores if math.isfinite(score)), default=1.0)
    seen = sorted((one for one in candidates if one.scores), key=_fate, reverse=True)
    pasts = {id(one): _past(one, candidates) if one.rewards else {} for one in seen}
    followed = [one for one in seen if len(one.scores) + len(pasts[id(one)]) > 1]
    once = [one for one in seen if len(one.scores) + len(pasts[id(one)]) == 1]
    first = [one for one in once if looks[0] in one.scores]
    later = {step: [one for one in once if step in one.scores] for step in looks[1:]}

    rows = max([len(followed), *(len(followed) + len(those) for those in later.values())])
    rows = min(max(rows, -(-len(first) // ACROSS)), ROWS)
    right = len(looks) + 0.3 if followed else 0
    across = min(-(-len(first) // rows), max(ACROSS - round(right), 1))
    cells: list[tuple[Candidate, int, int, float]] = []
    for row, one in enumerate(followed[:rows]):
        shown = {**pasts[id(one)], **dict.fromkeys(one.scores, one)}
        cells += [(other, step, row, looks.index(step)) for step, other in shown.items()]
    for step, those in later.items():
        below = zip(range(len(followed), rows), those, strict=False)
        cells += [(one, step, row, looks.index(step)) for row, one in below]
    cells += [
        (one, looks[0], i // across, right + i % across)
        for i, one in enumerate(first[: rows * across])
    ]
    hidden = len(seen) - len({id(one) for one, *_ in cells})

    grid = Grid(
        rows,
        right + across if first else len(looks),
        seen[0].thumbnails[max(seen[0].scores)].shape[:2],
        result.prompt,
        subtitle=f"{label(result.method)}: {_count(len(candidates), 'candidate')}, "
        f"{result.spent:.3g} {result.unit}, best {result.reward} {scored(result.score, largest)}",
        scores=True,
        headed=bool(followed),
    )
    for one, step, row, column in cells:
        won = one is candidates[result.winner] and step == looks[-1]
        score = one.scores[step]
        words = scored(score, largest) if math.isfinite(score) else "failed"
        grid.picture(row, column, one.thumbnails[step], one.pruned_at == step)
        grid.below(row, column, words, highlighted=won)
        if won:
            grid.frame(row, column)
    if followed:
        for i, step in enumerate(looks):
            number = sum(step in one.scores for one in seen)
            grid.above(i, f"step {step}\n{number} alive")
        if first:
            grid.above(right, f"dropped\nat step {looks[0]}", align="left")
    if hidden:
        grid.foot(f"and {hidden} more")
    grid.save(path)


def _past(candidate: Candidate, candidates: Sequence[Candidate]) -> dict[int, Candidate]:
    """Whose looks came before a candidate's own, by step: its parent's, then theirs."""
    past: dict[int, Candidate] = {}
    earliest, parent = min(candidate.scores), candidate.parent
    while parent is not None:
        ancestor = candidates[parent]
        own = [step for step in ancestor.scores if step < earliest]
        past |= dict.fromkeys(own, ancestor)
        earliest, parent = min([earliest, *own]), ancestor.parent
    return past


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _fate(candidate: Candidate) -> tuple[int, float]:
    """Orders candidates: how far one came, then its last score; one that failed comes last."""
    last = max(candidate.scores)
    score = candidate.scores[last]
    return last, score if math.isfinite(score) else -math.inf
