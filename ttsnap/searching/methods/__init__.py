"""The search methods by their names: one file each, which this collects."""

from __future__ import annotations

from ttsnap.searching.methods import (
    beam,
    best_of_n,
    bfs,
    code,
    das,
    dfs,
    draft,
    eps_greedy,
    evosearch,
    funnel,
    mcts,
    noise_zero_order,
    random,
    rbf,
    rejection,
    smc,
    svdd,
    ttsnap,
    ttsnap_zero_order,
    ttsp,
    verifier_threshold,
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
        draft,
        rejection,
        beam,
        mcts,
        noise_zero_order,
        eps_greedy,
        smc,
        das,
        funnel,
        bfs,
        svdd,
        code,
        rbf,
        verifier_threshold,
        dfs,
        evosearch,
    )
}
"""Name on the command line -> method."""

DEFAULT = "ttsp"
"""What searches if nothing is said; where NARF checkpoints are at hand it is ttsnap."""
