"""Keys that become equal to others while they wait, and keys of which one look-up raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any

import anyio
import pytest
from anyio import WouldBlock, create_task_group, fail_after
from tests.contract.helpers import until

from leaseq import LeasedKeyQueue, MemoryBroker, QueueClosedError, Tenant, TransactionError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.virtual_time,
    # From CPython 3.13 on an OrderedDict says so of an error of a key that it does not pass on.
    pytest.mark.filterwarnings("ignore:Exception ignored in PyDict_GetItem"),
]

Queue = LeasedKeyQueue[Any, str]


class Page:
    """A key that can change, and be told to raise at one of its next look-ups."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.left = 0  # look-ups until one raises; 0: none does

    def __hash__(self) -> int:
        if self.left:
            self.left -= 1
            if not self.left:
                raise RuntimeError("no hash, for once")
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Page) and self.number == other.number


OPTIONS: list[dict[str, Any]] = [{}, {"tenant": "t"}, {"priority": 5}]

LOOKS: dict[str, Callable[[Queue], Awaitable[object]]] = {
    "statistics": lambda queue: queue.statistics(),
    "available_keys": lambda queue: queue.available_keys(),
    "delayed_keys": lambda queue: queue.delayed_keys(),
    "inflight_keys": lambda queue: queue.inflight_keys(),
    "info": lambda queue: queue.info(),
}


async def three(queue: Queue, options: dict[str, Any], *, returned: bool) -> list[Page]:
    """Put three items, of which the first two may be back at their old places."""
    pages = [Page(number) for number in range(3)]
    for page, value in zip(pages, "abc", strict=True):
        await queue.put(page, value, **options)
    if returned:
        for seconds in (1.0, 2.0):
            await queue.get(lease_timeout=seconds)
        await anyio.sleep(3.0)
    return pages


@pytest.mark.parametrize("returned", [False, True], ids=["waits", "was handed out"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_key_that_is_equal_to_another_stops_nothing(
    which: int, options: dict[str, Any], returned: bool
) -> None:
    with fail_after(3600):
        async with create_task_group() as tg:
            queue = Queue()
            await tg.start(queue.run)
            pages = await three(queue, options, returned=returned)
            mortal = Page(9)
            await queue.put(mortal, "m", ttl=1.0, **options)
            pages[which].number, mortal.number = pages[which - 1].number, 8
            for look in LOOKS.values():
                await look(queue)
            await anyio.sleep(2.0)  # and the mortal one is gone
            values = []
            while True:
                try:
                    _, value, lease = queue.get_nowait()
                except WouldBlock:
                    break
                values.append(value)
                for look in LOOKS.values():
                    await look(queue)
                await queue.ack(lease)
            assert sorted(values) == ["a", "b", "c"]
            counts = await queue.statistics()
            assert (counts.put, counts.acked, counts.dropped) == (4, 3, 1)
            await queue.shutdown()  # which ends the `run`


@pytest.mark.parametrize("returned", [False, True], ids=["waits", "was handed out"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("number", [1, 7], ids=["equal to another", "like none"])
async def test_all_items_are_drained_once_whatever_their_keys_are_by_now(
    number: int, options: dict[str, Any], returned: bool
) -> None:
    async with create_task_group() as tg:
        queue = Queue()
        await tg.start(queue.run)
        pages = await three(queue, options, returned=returned)
        pages[0].number = number
        await queue.close()
        assert sorted(value for _, value in queue.drain_nowait()) == ["a", "b", "c"]
        counts = await queue.statistics()
        assert (counts.put, counts.dropped, counts.ready) == (3, 3, 0)


async def test_a_letter_whose_key_cannot_be_looked_up_comes_back_another_time() -> None:
    async with MemoryBroker() as broker:
        queue, letters = await broker.create_queue_pair("work")
        pages = [Page(number) for number in range(2)]
        for page in pages:
            await queue.put(page, "x")
            await queue.reject((await queue.get(lease_timeout=None))[2], reason="bad")
        pages[0].left = 1
        redriven = await queue.redrive()
        assert (redriven.keys, redriven.conflicts) == ((pages[1],), (pages[0],))
        redriven = await queue.redrive()
        assert (redriven.keys, redriven.conflicts) == ((pages[0],), ())
        assert await letters.qsize() == 0


async def test_keys_of_acknowledged_items_that_change_disturb_no_later_ack() -> None:
    for first, second in ((2, None), (2, 99), (None, 1)):
        queue = Queue(dedupe_for=1.0)
        pages = [Page(1), Page(2)]
        for page in pages:
            await queue.put(page, "x")
        for _ in pages:
            async with queue.lease():
                pass
        for page, number in zip(pages, (first, second), strict=True):
            page.number = page.number if number is None else number
        for number in range(4):
            await anyio.sleep(2.0)
            await queue.put(number, "y")
            async with queue.lease() as lease:
                pass
            assert lease.ended == "acked"


# One look-up that raises


async def becomes_due(queue: Queue, page: Page, arm: Callable[[], None]) -> None:
    await queue.put(page, "x", delay=1.0)
    arm()
    await anyio.sleep(2.0)


async def expires(queue: Queue, page: Page, arm: Callable[[], None]) -> None:
    await queue.put(page, "x")
    await queue.get(lease_timeout=1.0)
    arm()
    await anyio.sleep(2.0)


async def is_released(queue: Queue, page: Page, arm: Callable[[], None]) -> None:
    await queue.put(page, "x")
    _, _, lease = await queue.get()
    arm()
    await queue.release(lease)


async def is_put(queue: Queue, page: Page, arm: Callable[[], None]) -> None:
    arm()
    await queue.put(page, "x")


async def is_rejected(queue: Queue, page: Page, arm: Callable[[], None]) -> None:
    await queue.put(page, "x")
    _, _, lease = await queue.get()
    await queue.put(page, "y", if_in_flight="buffer")
    arm()
    await queue.reject(lease, "no")


async def is_resumed(queue: Queue, page: Page, arm: Callable[[], None]) -> None:
    await queue.pause()
    await queue.put(page, "x")
    arm()
    await anyio.sleep(1.0)
    await queue.resume()


MOVES = [becomes_due, expires, is_released, is_put, is_rejected, is_resumed]


@pytest.mark.parametrize("options", [{}, {"tenants": {"t": Tenant(2.0)}}], ids=["plain", "tenants"])
@pytest.mark.parametrize("waits", ["get", "take"])
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
async def test_one_look_up_that_raises_loses_no_item_and_no_wake_up(
    move: Callable[..., Awaitable[None]], waits: str, options: dict[str, Any]
) -> None:
    for number in range(1, 60):
        if not await goes_well(move, waits, number, options):
            break
    else:
        raise AssertionError("it never comes to an end")
    assert number > 3


async def goes_well(
    move: Callable[..., Awaitable[None]], waits: str, number: int, options: dict[str, Any]
) -> bool:
    """Have so many look-ups go well and the next one raise; False: there were not as many."""
    queue, page = Queue(**options), Page(1)
    got: list[str] = []

    async def consume() -> None:
        try:
            call = queue.get() if waits == "get" else queue.take(page)
            got.append((await call)[1])
        except (RuntimeError, QueueClosedError):
            got.append("raised")  # in its own call; or there was nothing, because the put did

    def arm() -> None:
        tg.start_soon(consume)
        page.left = number

    with fail_after(3600):
        async with create_task_group() as tg:
            await tg.start(queue.run)
            with suppress(RuntimeError):  # the right caller has it
                await move(queue, page, arm)
            fired, page.left = page.left == 0, 0
            await anyio.sleep(10.0)
            counts = await queue.statistics()
            here = counts.ready + counts.leased + counts.delayed + counts.buffered
            assert counts.put == here + counts.acked + counts.dropped
            assert not (counts.getters and counts.ready)
            assert not (counts.takers and await queue.state(page) == "ready")
            await queue.close()
            tg.cancel_scope.cancel()
    assert len(queue.drain_nowait()) == here
    return fired


@pytest.mark.parametrize("how", ["put_many", "transaction"])
async def test_one_look_up_that_raises_leaves_no_half_of_what_is_put_together(how: str) -> None:
    for number in range(1, 80):
        async with MemoryBroker() as broker:
            queue = await broker.queue("work")
            pages = [Page(1), Page(2)]
            pages[1].left = number
            raised = False
            try:
                if how == "put_many":
                    await queue.put_many([(page, "x") for page in pages])
                else:
                    async with broker.transaction() as tx:
                        for page in pages:
                            tx.put(queue, page, "x")
            except (RuntimeError, TransactionError):
                raised = True
            fired, pages[1].left = pages[1].left == 0, 0
            assert await queue.qsize() == (0 if raised else 2)
        if not fired:
            break
    assert number > 5


# Names


class Name(str):
    """A name whose hash can be made to raise."""

    __slots__ = ("broken",)

    def __hash__(self) -> int:
        if getattr(self, "broken", False):
            raise RuntimeError("no hash")
        return super().__hash__()

    __eq__ = str.__eq__


@pytest.mark.parametrize("how", ["ready", "delayed", "expired"])
async def test_a_tenant_is_its_name_and_no_object_of_the_callers(how: str) -> None:
    async with create_task_group() as tg:
        queue = Queue(max_size=inf)
        await tg.start(queue.run)
        name = Name("acme")
        await queue.put("a", "x", tenant=name, delay=1.0 if how == "delayed" else 0.0)
        if how == "expired":
            await queue.get(lease_timeout=1.0, tenants=[name], consumer=name)
        await queue.set_tenant(Name("other"), Tenant(2.0))
        name.broken = True
        _, value, lease = await queue.get()
        assert (value, type(lease.tenant), lease.tenant) == ("x", str, "acme")
        await queue.ack(lease)
        await until(queue, leased=0)
        tg.cancel_scope.cancel()
