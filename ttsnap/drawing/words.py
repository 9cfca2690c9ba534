"""How methods and numbers are written, in figures as on the terminal."""

from __future__ import annotations

import math

LABELS = {
    "base": "untouched reward",
    "finetuned": "noise-aware reward",
    "best-of-n": "best-of-N",
    "ttsp": "TTSp",
    "ttsnap": "TTSnap",
    "base@preview": "untouched reward, previews",
    "finetuned@preview": "noise-aware reward, previews",
    "ttsp@preview": "TTSp, previews",
    "ttsnap@preview": "TTSnap, previews",
    "draft": "drafts",
    "draft+ttsp": "drafts, TTSp",
    "draft+ttsnap": "drafts, TTSnap",
    "best": "best plan",
    "ttsnap+zero-order": "TTSnap + zero-order",
    "mcts": "MCTS",
    "noise-zero-order": "noise zero-order",
    "eps-greedy": "ε-greedy",
    "smc": "SMC",
    "das": "DAS",
    "bfs": "breadth-first",
    "svdd": "SVDD",
    "code": "CoDe",
    "rbf": "RBF",
    "verifier-threshold": "verifier threshold",
    "dfs": "depth-first",
    "evosearch": "EvoSearch",
}


def label(name: str) -> str:
    """How a strategy or kind of reward is called in a figure."""
    return LABELS.get(name, name)


def signed(value: float, digits: int = 2) -> str:
    """``value`` with its sign and so many significant digits, such as +0.10."""
    return f"{value:+#.{digits}g}".rstrip(".").replace("-", "−")


def scored(value: float, largest: float, sign: str = "-") -> str:
    """``value`` to the decimals that show four digits of ``largest``, so that columns line up.

    ``sign`` is "+" to show it of positive values, too.
    """
    decimals = max(0, 3 - math.floor(math.log10(abs(largest) or 1)))
    return f"{value:{sign}z.{decimals}f}".replace("-", "−")
