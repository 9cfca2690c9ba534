"""What a run consists of, how far it is, and fetching what it needs."""
