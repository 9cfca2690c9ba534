"""``python -m ttsnap`` is the command ``ttsnap``."""

from __future__ import annotations

from ttsnap.cli import main

if __name__ == "__main__":
    main()
