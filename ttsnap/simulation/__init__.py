"""What search strategies would have found, replayed on stored reward tensors; never torch."""

from ttsnap.simulation.api import plan, simulate

__all__ = ["plan", "simulate"]
