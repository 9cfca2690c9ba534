"""Better images for the same compute: prune bad noise seeds early."""

__version__ = "0.1.0"
