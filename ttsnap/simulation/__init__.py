"""What search strategies would have found, replayed on stored reward tensors; numpy only."""

from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.montecarlo import Replay, expected_reward, replay
from ttsnap.simulation.omega import omega_table
from ttsnap.simulation.strategies import Curves, simulate

__all__ = [
    "Curves",
    "Replay",
    "expected_best",
    "expected_reward",
    "omega_table",
    "replay",
    "simulate",
]
