"""``python -m leaseq`` is the command ``leaseq``."""

from ._cli import main

if __name__ == "__main__":
    main()
