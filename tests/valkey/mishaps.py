"""What goes wrong between a process and its server, seen from within the process: calls that are
held up, and replies that are late or lost. `wire` has what goes wrong outside of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import anyio

from leaseq._core.errors import ServerUnavailableError
from leaseq.valkey import ValkeyBroker

Call = Callable[..., Awaitable[Any]]


async def eventually(is_so: Callable[[], bool], *, within: float = 20.0) -> None:
    """Wait for something that others bring about."""
    with anyio.fail_after(within):
        while True:
            if is_so():
                return
            await anyio.sleep(0.002)


@contextmanager
def calls_go_through(broker: ValkeyBroker, way: Callable[[Call], Call]) -> Iterator[None]:
    """Have a broker's calls of scripts go some other way."""
    client = broker.courier._client
    with patch.object(client, "script", way(client.script)):
        yield


class Gate:
    """Holds up a broker's calls, before they are sent, or else their replies.

    Attributes:
        reached: Set once a call is held up.
    """

    def __init__(self, broker: ValkeyBroker, *, replies: bool = False) -> None:
        self._broker = broker
        self._replies = replies
        self._opened = anyio.Event()
        self.reached = anyio.Event()

    def open(self) -> None:
        """Let everything through."""
        self._opened.set()

    @contextmanager
    def closed(self) -> Iterator[Gate]:
        """Hold up what comes, until it is opened; opened at the end at the latest."""

        def way(call: Call) -> Call:
            async def held_up(*args: Any) -> Any:
                if not self._replies:
                    self.reached.set()
                    await self._opened.wait()
                reply = await call(*args)
                if self._replies:
                    self.reached.set()
                    await self._opened.wait()
                return reply

            return held_up

        try:
            with calls_go_through(self._broker, way):
                yield self
        finally:
            self.open()


@contextmanager
def slow(broker: ValkeyBroker, seconds: float) -> Iterator[None]:
    """Each call takes longer, on its way there."""

    def way(call: Call) -> Call:
        async def late(*args: Any) -> Any:
            await anyio.sleep(seconds)
            return await call(*args)

        return late

    with calls_go_through(broker, way):
        yield


class Outage:
    """A server that is away, or unwilling: a broker's calls fail, until it is over.

    Args:
        broker: Whose calls.
        error: Makes what they fail with.
        is_done: Whether they are done all the same.

    Attributes:
        failed: How many calls have.
    """

    def __init__(
        self, broker: ValkeyBroker, error: Callable[[], Exception], *, is_done: bool = False
    ) -> None:
        self._broker = broker
        self._error = error
        self._is_done = is_done
        self._is_over = False
        self._again = anyio.Event()
        self.failed = 0

    async def noticed(self, times: int) -> None:
        """Wait until so many calls have failed."""
        while self.failed < times:
            await self._again.wait()

    def end(self) -> None:
        """Let calls through again."""
        self._is_over = True

    @contextmanager
    def begun(self) -> Iterator[Outage]:
        """Have calls fail; at the end at the latest it is over."""

        def way(call: Call) -> Call:
            async def failing(*args: Any) -> Any:
                if self._is_over:
                    return await call(*args)
                if self._is_done:
                    await call(*args)
                self.failed += 1
                self._again.set()
                self._again = anyio.Event()
                raise self._error()

            return failing

        with calls_go_through(self._broker, way):
            yield self


@contextmanager
def replies_lost(broker: ValkeyBroker, fates: Sequence[bool]) -> Iterator[list[object]]:
    """Calls are done and their replies lost, as long as these say so; then never done, if the last.

    Args:
        broker: Whose calls.
        fates: For each call in turn, whether it is done before its reply is lost. Those after it go
            through.

    Gives the list of the replies that were lost.
    """
    lost: list[object] = []
    left = iter(fates)

    def way(call: Call) -> Call:
        async def lossy(*args: Any) -> Any:
            is_done = next(left, None)
            if is_done is None:
                return await call(*args)
            lost.append(await call(*args) if is_done else None)
            raise ServerUnavailableError("the connection was lost", in_doubt=True)

        return lossy

    with calls_go_through(broker, way):
        yield lost


@contextmanager
def cut_off(broker: ValkeyBroker, word: str = "", *, is_done: bool = True) -> Iterator[None]:
    """No call has a reply, from the first one on that asks for this; that one is done, or not."""
    is_cut = False

    def way(call: Call) -> Call:
        async def lost(*args: Any) -> Any:
            nonlocal is_cut
            if not is_cut and word and word not in args[2]:
                return await call(*args)
            if not is_cut and is_done:
                await call(*args)
            is_cut = True
            raise ServerUnavailableError("the connection was lost", in_doubt=True)

        return lost

    with calls_go_through(broker, way):
        yield
