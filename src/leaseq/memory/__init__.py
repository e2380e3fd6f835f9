"""The engine in this process."""

from .queue import LeasedKeyQueue

__all__ = ["LeasedKeyQueue"]
