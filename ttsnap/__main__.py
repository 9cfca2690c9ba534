"""``python -m ttsnap``."""

from ttsnap.cli import main

if __name__ == "__main__":
    main()
