"""What search strategies would have found, replayed on stored reward tensors; numpy only."""
