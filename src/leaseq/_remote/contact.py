"""Whether the server answers, for those who read the log."""

from __future__ import annotations

import logging

__all__ = ["Contact"]

logger = logging.getLogger("leaseq")

_MOMENT = 1.0  # seconds without an answer that are not worth a word


class Contact:
    """Says once that the server does not answer, and once that it does again."""

    def __init__(self) -> None:
        self._lost_at: float | None = None
        self._complained = False

    def missed(self, why: str, now: float) -> None:
        """There was no answer, at so many seconds of the event loop's time."""
        if self._lost_at is None:
            self._lost_at = now
        elif not self._complained and now - self._lost_at >= _MOMENT:
            self._complained = True
            logger.warning("%s: it is tried again and again", why)

    def made(self, now: float) -> None:
        """There was one."""
        if self._complained and self._lost_at is not None:
            logger.warning("the server answers again, after %.1f s", now - self._lost_at)
        self._lost_at = None
        self._complained = False
