"""GenEval's rules (arXiv 2310.11513): what a picture must show, and whether what was found is it.

Read for it: ``evaluation/evaluate_images.py`` and ``prompts/evaluation_metadata.jsonl`` of
https://github.com/djghosh13/geneval. A rule looks at the most confident objects of its class only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ttsnap.config import Text
from ttsnap.rewards.by_prompt import Line

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERLAP = 0.1  # share of the two sizes by which centres must be apart to be beside one another
LEAST = 0.5  # share of the distance that must lie along an axis

Color = Literal[
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"
]
Relation = Literal["left of", "right of", "above", "below"]


class Objects(BaseModel):
    """So many objects of a class."""

    model_config = ConfigDict(strict=True)
    name: Text = Field(alias="class")
    count: PositiveInt


class Include(Objects):
    """Objects that must be there, all of a colour, all placed so to those of an earlier rule."""

    color: Color | None = None
    position: tuple[Relation, Annotated[int, Field(ge=0)]] | None = None


class Rules(Line):
    """Of one prompt, as a line of ``evaluation_metadata.jsonl``.

    Attributes:
        tag: what the prompt is about.
        include: what must be there.
        exclude: of what there must be fewer.
    """

    tag: str
    include: Annotated[list[Include], Field(min_length=1)]
    exclude: list[Objects] = Field([])

    @property
    def classes(self) -> set[str]:
        return {one.name for one in (*self.include, *self.exclude)}


class Found(NamedTuple):
    """An object in a picture.

    Attributes:
        box: left, top, right, bottom in pixels.
        mask: (H, W) bool.
    """

    box: NDArray[np.int64]
    mask: NDArray[np.bool_]


def holds(
    rules: Rules,
    found: Mapping[str, Sequence[Found]],
    colors: Callable[[Sequence[Found], str], Sequence[str]],
) -> bool:
    """Whether a picture keeps to its rules.

    Args:
        rules: of its prompt.
        found: objects by class, the most confident first.
        colors: names the colour of each of some objects of a class.
    """
    groups: list[Sequence[Found] | None] = []
    for rule in rules.include:
        group = found.get(rule.name, [])[: rule.count]
        right = len(group) == rule.count
        if right and rule.color:
            right = all(color == rule.color for color in colors(group, rule.name))
        if right and rule.position:
            relation, index = rule.position
            others = groups[index] if index < len(groups) else None
            right = others is not None and all(
                relation in relations(one.box, other.box) for one in group for other in others
            )
        groups.append(group if right else None)
    few = all(len(found.get(rule.name, [])) < rule.count for rule in rules.exclude)
    return few and None not in groups


def relations(box: NDArray[np.int64], other: NDArray[np.int64]) -> set[Relation]:
    """Where a box (left, top, right, bottom) is as seen from another; none where they overlap."""
    corners = np.array([box, other], float).reshape(2, 2, 2)
    first, second = corners.mean(axis=1)
    sizes = np.abs(corners[:, 1] - corners[:, 0]).sum(axis=0)
    offset = first - second
    left = np.maximum(np.abs(offset) - OVERLAP * sizes, 0) * np.sign(offset)
    if (np.abs(left) < 1e-3).all():
        return set()
    x, y = left / np.linalg.norm(offset)
    sides: dict[Relation, bool] = {
        "left of": x < -LEAST,
        "right of": x > LEAST,
        "above": y < -LEAST,
        "below": y > LEAST,
    }
    return {relation for relation, true in sides.items() if true}
