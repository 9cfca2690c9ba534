"""Figures, picture grids, the headline numbers of a run, and the page that shows them."""

GALLERY = 12
"""Test prompts whose pictures are on the page."""
