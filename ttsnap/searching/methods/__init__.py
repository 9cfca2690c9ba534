"""The search methods by their names: one file each, which this collects."""

from __future__ import annotations

from ttsnap.searching.methods import (
    beam,
    best_of_n,
    eps_greedy,
    mcts,
    noise_zero_order,
    random,
    rejection,
    smc,
    ttsnap,
    ttsnap_zero_order,
    ttsp,
    zero_order,
)
from ttsnap.searching.methods.base import Method, MethodOptions

__all__ = ["DEFAULT", "METHODS", "Method", "MethodOptions"]

METHODS = {
    file.METHOD.name: file.METHOD
    for file in (
        best_of_n,
        ttsnap,
        ttsp,
        random,
        zero_order,
        ttsnap_zero_order,
        rejection,
        beam,
        mcts,
        noise_zero_order,
        eps_greedy,
        smc,
    )
}
"""Name on the command line -> method."""

DEFAULT = "ttsp"
"""What searches if nothing is said; where NARF checkpoints are at hand it is ttsnap."""
