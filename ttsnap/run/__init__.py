"""What a run consists of, how far it is, and fetching what it needs.

Reads configurations and what finished jobs left; it computes nothing and starts no job. Importing
it imports neither torch nor Zarr.
"""
