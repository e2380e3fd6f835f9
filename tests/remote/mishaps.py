"""What goes wrong between a process and its store, seen from within the process: exchanges that are
held up, and replies that are late or lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, cast
from unittest.mock import patch

import anyio

from leaseq._core.errors import ServerUnavailableError
from leaseq._remote.broker import RemoteBroker
from leaseq._remote.dispatcher import Dispatcher
from leaseq._remote.protocol import Batch, Operation, Reply
from leaseq._remote.queue import RemoteQueue

Call = Callable[..., Awaitable[Any]]
Client: TypeAlias = "RemoteBroker | RemoteQueue[Any, Any]"


class Brokers(Protocol):
    """An engine under test."""

    _brokers: list[Any]


def broker_of(engine: Brokers, queue: RemoteQueue[Any, Any]) -> Any:
    """The broker of an engine under test that has this handle."""
    [broker] = [broker for broker in engine._brokers if broker._handles.owns(queue)]
    return broker


def dispatcher_of(client: Client) -> Dispatcher:
    """The dispatcher of a broker that is open, or of a queue."""
    if isinstance(client, RemoteQueue):
        return client._engine.dispatcher
    assert client._own.dispatcher is not None
    return client._own.dispatcher


def rule_out_beats(*brokers: RemoteBroker) -> None:
    """Have waiters of these brokers look again when they are woken, and not otherwise."""
    for broker in brokers:
        broker._own.housekeeping._beat_at = 1e9


async def eventually(is_so: Callable[[], bool], *, within: float = 20.0) -> None:
    """Wait for something that others bring about."""
    with anyio.fail_after(within):
        while True:
            if is_so():
                return
            await anyio.sleep(0.002)


@contextmanager
def exchanges_go_through(client: Client, way: Callable[[Call], Call]) -> Iterator[None]:
    """Have a broker's exchanges go some other way."""
    store = dispatcher_of(client)._store
    with patch.object(store, "exchange", way(store.exchange)):
        yield


class Gate:
    """Holds up a broker's exchanges, before they are sent, or else their replies.

    Attributes:
        reached: Set once an exchange is held up.
    """

    def __init__(self, client: Client, *, replies: bool = False) -> None:
        self._client = client
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
            with exchanges_go_through(self._client, way):
                yield self
        finally:
            self.open()


@contextmanager
def slow(client: Client, seconds: float) -> Iterator[None]:
    """Each exchange takes longer, on its way there."""

    def way(call: Call) -> Call:
        async def late(*args: Any) -> Any:
            await anyio.sleep(seconds)
            return await call(*args)

        return late

    with exchanges_go_through(client, way):
        yield


class Outage:
    """A store that is away, or unwilling: a broker's exchanges fail, until it is over.

    Args:
        client: Whose exchanges.
        error: Makes the error with which they fail.
        is_done: Whether they are done all the same.

    Attributes:
        failed: How many exchanges have failed.
    """

    def __init__(
        self, client: Client, error: Callable[[], Exception], *, is_done: bool = False
    ) -> None:
        self._client = client
        self._error = error
        self._is_done = is_done
        self._is_over = False
        self._again = anyio.Event()
        self.failed = 0

    async def noticed(self, times: int) -> None:
        """Wait until so many exchanges have failed."""
        while self.failed < times:
            await self._again.wait()

    def end(self) -> None:
        """Let exchanges through again."""
        self._is_over = True

    @contextmanager
    def begun(self) -> Iterator[Outage]:
        """Have exchanges fail; over at the end at the latest."""

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

        with exchanges_go_through(self._client, way):
            yield self


def connection_lost() -> ServerUnavailableError:
    """The error of an exchange that may have been done."""
    return ServerUnavailableError("the connection was lost", in_doubt=True)


def lossy(fates: Sequence[bool], lost: list[object]) -> Callable[[Call], Call]:
    """Lose replies of calls, or the calls: the way that they go.

    Args:
        fates: For each call in turn, whether it is done before its reply is lost. Those after it
            go through.
        lost: Takes the replies that were lost.
    """
    left = iter(fates)

    def way(call: Call) -> Call:
        async def losing(*args: Any) -> Any:
            is_done = next(left, None)
            if is_done is None:
                return await call(*args)
            lost.append(await call(*args) if is_done else None)
            raise connection_lost()

        return losing

    return way


@contextmanager
def replies_lost(client: Client, fates: Sequence[bool]) -> Iterator[list[object]]:
    """Lose the replies of exchanges that are done, or the exchanges, as these say.

    Args:
        client: Whose exchanges.
        fates: For each exchange in turn, whether it is done before its reply is lost. Those after
            it go through.

    Gives the list of the replies that were lost.
    """
    lost: list[object] = []
    with exchanges_go_through(client, lossy(fates, lost)):
        yield lost


@contextmanager
def cut_off(
    client: Client, at: type[Operation] = Operation, *, is_done: bool = True
) -> Iterator[None]:
    """Lose all replies, from the first exchange on that has an operation of some kind.

    Args:
        client: Whose exchanges.
        at: The kind of the operation; any, unless given.
        is_done: Whether that first exchange is done in the store all the same; none after it is.
    """
    is_cut = False

    def way(call: Call) -> Call:
        async def lost(batch: Batch) -> Reply:
            nonlocal is_cut
            if not is_cut:
                if not any(isinstance(operation, at) for operation in batch.operations):
                    return cast("Reply", await call(batch))
                is_cut = True
                if is_done:
                    await call(batch)
            raise connection_lost()

        return lost

    with exchanges_go_through(client, way):
        yield
