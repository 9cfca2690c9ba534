"""Figures, picture grids and the headline numbers of a run."""
