"""All commands of an operator, in the order in which they are listed."""

from __future__ import annotations

from .change import purge, put, redrive
from .show import dead, info, peek, queues
from .watch import watch

__all__ = ["COMMANDS"]

COMMANDS = (queues, info, watch, put, peek, purge, dead, redrive)
