"""The charts, one file a subject: each takes tidy tables, draws one figure and writes it."""

from ttsnap.report.figures.looks import looks, priced_looks
from ttsnap.report.figures.reward import rank_consistency, training
from ttsnap.report.figures.run import costs, stages
from ttsnap.report.figures.search import (
    against_compute,
    held_out,
    live,
    oracle_accuracy,
    ranked_methods,
    reward_by,
)
from ttsnap.report.figures.simulation import omega, reward_vs_budget, schedules_over_budgets

__all__ = [
    "against_compute",
    "costs",
    "held_out",
    "live",
    "looks",
    "omega",
    "oracle_accuracy",
    "priced_looks",
    "rank_consistency",
    "ranked_methods",
    "reward_by",
    "reward_vs_budget",
    "schedules_over_budgets",
    "stages",
    "training",
]
