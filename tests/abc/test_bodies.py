"""Bodies of leases one after the other, in one cancel scope while none is lost."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from leaseq import Lease, LeasedKeyQueue, LeaseLostError
from leaseq.abc._lease import Bodies

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]


@pytest.fixture
def queue() -> Queue:
    queue = Queue()
    queue.put_many_nowait(dict.fromkeys("abc", 1))
    return queue


async def claim(queue: Queue) -> Lease[str, int]:
    return (await queue.get(consumer="me"))[2]


async def is_cancelled(wait: Callable[[], Awaitable[object]] = checkpoint) -> bool:
    """Wait, and tell whether that was cancelled; the cancellation goes no further."""
    try:
        await wait()
    except anyio.get_cancelled_exc_class():
        return True
    return False


async def test_bodies_in_a_row_share_a_scope(queue: Queue) -> None:
    scopes = []
    with Bodies() as bodies:
        for _ in range(3):
            lease = await claim(queue)
            async with bodies.of(lease):
                scopes.append(lease._scope)
            assert lease.ended == "acked"
    assert scopes == [scopes[0]] * 3


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_lost_lease_cancels_its_body_and_no_other_one(queue: Queue, swallows: bool) -> None:
    with Bodies() as bodies:
        for number in range(3):
            lease = await claim(queue)
            if number != 1:
                async with bodies.of(lease):
                    assert not await is_cancelled()
                assert lease.ended == "acked"
                continue
            with pytest.raises(LeaseLostError):
                async with bodies.of(lease):
                    await queue.release_all(consumer="me")
                    if swallows:
                        assert await is_cancelled()
                    else:
                        await checkpoint()
                        raise AssertionError("it was not cancelled")
    assert not await is_cancelled()


async def test_a_body_that_is_cancelled_from_outside_gives_its_item_back(queue: Queue) -> None:
    with CancelScope() as outer, Bodies() as bodies:
        async with bodies.of(await claim(queue)):
            pass
        async with bodies.of(await claim(queue)):
            outer.cancel()
            await checkpoint()
    assert outer.cancelled_caught
    assert (await queue.statistics()).given_back == 1
    assert [key for key, _ in queue.drain_nowait()] == ["b", "c"]


async def test_a_body_that_raises_has_failed_and_the_next_one_goes_on(queue: Queue) -> None:
    with Bodies() as bodies:
        with suppress(KeyError):
            async with bodies.of(await claim(queue)):
                raise KeyError
        async with bodies.of(await claim(queue)):
            assert not await is_cancelled()
    assert [key for key, _ in queue.drain_nowait()] == ["c", "a"]


async def test_a_lease_that_was_lost_before_it_is_not_entered_and_not_kept(queue: Queue) -> None:
    with Bodies() as bodies:
        lease = await claim(queue)
        await queue.release_all(consumer="me")
        with pytest.raises(LeaseLostError, match="before it was entered"):
            async with bodies.of(lease):
                raise AssertionError("it was entered")
        assert bodies._lease is None
        async with bodies.of(await claim(queue)):
            assert not await is_cancelled()


async def test_a_lease_that_is_entered_already_is_refused(queue: Queue) -> None:
    with Bodies() as bodies:
        lease = await claim(queue)
        async with bodies.of(lease):
            with pytest.raises(RuntimeError, match="entered already"):
                async with lease:
                    raise AssertionError("it was entered")
