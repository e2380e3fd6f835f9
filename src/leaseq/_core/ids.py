"""Names that nothing else has. Sans-IO, but for the system's source of chance."""

from __future__ import annotations

import os


def new_id() -> str:
    """Return 128 random bits in hexadecimal."""
    return os.urandom(16).hex()
