"""The bytes to and from a server, without the server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream, create_task_group, fail_after, move_on_after
from anyio.abc import SocketListener, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteReceiveStream

from leaseq._valkey import stream
from leaseq._valkey.stream import Stream, connect

pytestmark = pytest.mark.anyio

MUCH = bytes(range(256)) * 64 * 1024  # more than the operating system takes at once


@pytest.fixture
async def both() -> AsyncIterator[tuple[Stream, SocketStream]]:
    """A stream, and the other end of it."""
    listener: SocketListener
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as multi:
        [listener] = multi.listeners  # type: ignore[list-item]
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        near = await connect("127.0.0.1", port, None)
        far = await listener.accept()
        async with far:
            yield near, far
        await near.aclose()


async def test_more_than_fits_is_sent_as_the_other_end_takes_it(
    both: tuple[Stream, SocketStream],
) -> None:
    near, far = both
    with fail_after(10):
        async with create_task_group() as tg:
            tg.start_soon(near.send, MUCH)
            received = await BufferedByteReceiveStream(far).receive_exactly(len(MUCH))
    assert received == MUCH


async def test_what_arrives_is_returned_as_it_comes_and_then_the_end(
    both: tuple[Stream, SocketStream],
) -> None:
    near, far = both
    await far.send(b"abc")
    assert await near.receive(2) == b"ab"
    assert await near.receive(2) == b"c"
    await far.aclose()
    with pytest.raises(EndOfStream):
        await near.receive(2)


async def test_nothing_is_lost_by_a_wait_that_is_cancelled(
    both: tuple[Stream, SocketStream],
) -> None:
    near, far = both
    received = b""
    with move_on_after(0.01):
        received += await near.receive(10)
    await far.send(b"abc")
    await checkpoint()
    with move_on_after(0):
        received += await near.receive(10)
    if not received:  # on uvloop it is there before the cancellation
        received += await near.receive(10)
    assert received == b"abc"


async def test_each_wait_lets_others_run_though_there_is_something(
    both: tuple[Stream, SocketStream],
) -> None:
    near, far = both
    await far.send(bytes(100))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with create_task_group() as tg:
        tg.start_soon(take_turns)
        for _ in range(100):
            assert len(await near.receive(1)) == 1
        tg.cancel_scope.cancel()
    assert turns > 50


@pytest.mark.parametrize("what", ["send", "receive"])
async def test_a_task_that_waits_hears_of_the_end(
    both: tuple[Stream, SocketStream], what: str
) -> None:
    near, _ = both

    async def wait() -> None:
        with pytest.raises(ClosedResourceError):
            await (near.send(MUCH) if what == "send" else near.receive(10))

    with fail_after(10):
        async with create_task_group() as tg:
            tg.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await near.aclose()
    await near.aclose()  # again
    with pytest.raises(ClosedResourceError):
        await near.receive(10)


async def test_one_task_sends_while_another_receives(
    both: tuple[Stream, SocketStream],
) -> None:
    near, far = both
    with fail_after(10):
        async with create_task_group() as tg:
            tg.start_soon(near.send, MUCH)
            await anyio.wait_all_tasks_blocked()
            await far.send(b"abc")
            assert await near.receive(10) == b"abc"
            await BufferedByteReceiveStream(far).receive_exactly(len(MUCH))


async def test_a_connection_is_kept_alive_and_the_other_end_sees_its_end(
    both: tuple[Stream, SocketStream],
) -> None:
    near, far = both
    kept = near._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)  # type: ignore[attr-defined]
    assert kept
    await near.aclose()
    with fail_after(10), pytest.raises(EndOfStream):
        await far.receive()


async def test_a_connection_whose_maker_is_cancelled_at_the_end_is_returned_or_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_over = stream._take_over
    made: list[stream.SocketStream | None] = []

    def take_over_and_cancel(raw: socket.socket) -> stream.SocketStream | None:
        made.append(take_over(raw))
        scope.cancel()
        return made[0]

    monkeypatch.setattr(stream, "_take_over", take_over_and_cancel)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.CancelScope() as scope:
            await (await connect("127.0.0.1", port, None)).aclose()
    [own] = made
    assert own is None or own._is_closed


@pytest.mark.only("asyncio")
async def test_a_connection_whose_maker_is_cancelled_natively_at_the_end_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_over = stream._take_over
    made: list[stream.SocketStream | None] = []

    def take_over_and_cancel(raw: socket.socket) -> stream.SocketStream | None:
        made.append(take_over(raw))
        asyncio.get_running_loop().call_soon(task.cancel)  # it knows no shield
        return made[0]

    monkeypatch.setattr(stream, "_take_over", take_over_and_cancel)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        task = asyncio.create_task(connect("127.0.0.1", port, None))
        with pytest.raises(asyncio.CancelledError):
            await task
    [own] = made
    assert own is not None
    assert own._is_closed
