"""The values that a queue in this process keeps, and the tasks that wait for some."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from anyio import Event, fail_after

from .._core.kept import Kept
from .._core.loop import Home
from .._rules.kept import KeptValues


class KeptHere:
    """Values by name, and the events of the tasks that wait for them.

    Args:
        home: The event loop.

    Attributes:
        values: The values.
    """

    __slots__ = ("_home", "_waiters", "values")

    def __init__(self, home: Home) -> None:
        self.values = KeptValues()
        self._home = home
        self._waiters: dict[str, dict[Event, None]] = {}  # by name, in line

    def keep(self, values: Sequence[Kept]) -> float:
        """Keep values, and wake the tasks that wait for them; return the time of the next sweep.

        O(log n) for each.
        """
        next_sweep = self.values.keep(values, self._home.time())
        if self._waiters:
            self._home.check()
            for value in values:
                for event in self._waiters.pop(value.name, ()):
                    event.set()
        return next_sweep

    async def recall(
        self, name: str, timeout: float | None, check_open: Callable[[], object]
    ) -> bytes:
        """Wait for the value of a name.

        Args:
            name: The name.
            timeout: Seconds; None: without end.
            check_open: Raises if there is nothing to wait for any more.

        Raises:
            TimeoutError: there was none in time.
        """
        await self._home.checkpoint()
        with fail_after(timeout):
            while True:
                check_open()
                body = self.values.read(name, self._home.time())
                if body is not None:
                    return body
                if timeout == 0:
                    raise TimeoutError
                await self._wait(name)

    async def _wait(self, name: str) -> None:
        """Wait until a value is kept under a name, or all is over."""
        event = Event()
        self._waiters.setdefault(name, {})[event] = None
        try:
            await event.wait()
        finally:
            if not event.is_set():
                del self._waiters[name][event]
                if not self._waiters[name]:
                    del self._waiters[name]

    def close(self) -> None:
        """Forget all values, and wake the tasks that wait for some."""
        self.values.clear()
        waiters, self._waiters = self._waiters, {}
        for events in waiters.values():
            for event in events:
                event.set()
