"""What search strategies would have found, replayed on stored reward tensors; numpy only."""

from ttsnap.simulation.exact import expected_best
from ttsnap.simulation.montecarlo import Replay, expected_reward, replay
from ttsnap.simulation.omega import omega_table
from ttsnap.simulation.strategies import Curves, at_all_steps, simulate, with_fallback

__all__ = [
    "Curves",
    "Replay",
    "at_all_steps",
    "expected_best",
    "expected_reward",
    "omega_table",
    "replay",
    "simulate",
    "with_fallback",
]
