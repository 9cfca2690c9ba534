"""Noise-aware reward finetuning: data, losses, one step of the curriculum, evaluation.

Uses trainable rewards and stores, and knows nothing of what looks by the checkpoints it writes.
"""
