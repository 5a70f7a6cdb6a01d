"""The command, as ``python -m dramatiq_clutch``."""

from .cli import main

if __name__ == "__main__":
    main()
