"""What goes wrong between a process and its store, seen from within the process: exchanges that are
held up, and replies that are late or lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias
from unittest.mock import patch

import anyio

from leaseq._core.errors import ServerUnavailableError
from leaseq._remote.broker import RemoteBroker
from leaseq._remote.dispatcher import Dispatcher
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
    assert client._dispatcher is not None
    return client._dispatcher


def rule_out_beats(*brokers: RemoteBroker) -> None:
    """Have waiters of these brokers look again when they are woken, and not otherwise."""
    for broker in brokers:
        broker._housekeeping._beat_at = 1e9


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
    left = iter(fates)

    def way(call: Call) -> Call:
        async def lossy(*args: Any) -> Any:
            is_done = next(left, None)
            if is_done is None:
                return await call(*args)
            lost.append(await call(*args) if is_done else None)
            raise ServerUnavailableError("the connection was lost", in_doubt=True)

        return lossy

    with exchanges_go_through(client, way):
        yield lost


@contextmanager
def cut_off(client: Client, *, first_is_done: bool = True) -> Iterator[None]:
    """No exchange has a reply; the first is done in the store all the same."""
    is_first = True

    def way(call: Call) -> Call:
        async def lost(*args: Any) -> Any:
            nonlocal is_first
            if is_first and first_is_done:
                is_first = False
                await call(*args)
            raise ServerUnavailableError("the connection was lost", in_doubt=True)

        return lost

    with exchanges_go_through(client, way):
        yield
