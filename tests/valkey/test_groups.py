"""Groups on a server: how queues are found, also after processes that ended half-way."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from anyio import create_task_group, fail_after, move_on_after
from tests.contract.helpers import in_line
from tests.remote.mishaps import eventually
from tests.servers import Server
from tests.valkey.engine import groups_of
from tests.valkey.test_permissions import PAGE

import leaseq
from leaseq import LeasedQueue
from leaseq._core.errors import ServerError, UnusableServerError
from leaseq._remote import protocol
from leaseq._remote.protocol import GoneError, Operation, QueueRef
from leaseq._valkey.spread import group_tag
from leaseq.tasks import TaskQueue, TaskWorker
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio

Broker = ValkeyBroker
Url = Callable[..., str]


@pytest.fixture
def url(server: Server) -> Url:
    """The URL of a broker that no other test sees."""
    prefix = uuid.uuid4().hex

    def make(**options: object) -> str:
        given = "".join(f"&{name}={value}" for name, value in options.items())
        return f"{server.url}?prefix={prefix}{given}"

    return make


def broker_at(url: str) -> ValkeyBroker:
    return ValkeyBroker(ValkeyUrl.parse(url))


def group_names(broker: ValkeyBroker) -> set[str]:
    """The groups that a broker has opened."""
    return {name for name, group in broker._others.items() if group.dispatcher is not None}


# Finding them


async def test_another_process_finds_a_queue_in_its_group(url: Url) -> None:
    async with broker_at(url()) as one, broker_at(url()) as other:
        await (await one.queue("orders", group="shop")).put("a", 1)
        assert await (await other.queue("orders", make=False)).qsize() == 1
        assert await in_line(await other.queue("orders")) == ["a"]
        assert [info.name for info in await other.list_queues()] == ["orders"]
        async with broker_at(url()) as third:
            with pytest.raises(ValueError, match="'orders' has group='shop'"):
                await third.queue("orders", group="bank")


async def test_a_group_is_opened_when_it_is_first_needed(url: Url) -> None:
    async with broker_at(url()) as one, broker_at(url()) as other:
        await one.queue("orders", group="shop")
        await one.queue("bills", group="bank")
        assert group_names(other) == set()
        await other.queue("orders")
        assert group_names(other) == {"shop"}
        await other.list_queues()
        assert group_names(other) == {"shop", "bank"}


@pytest.mark.parametrize("others", [{}, {"groups": 7}, {"groups": 30}])
async def test_queues_are_found_whatever_the_number_of_groups(
    url: Url, others: dict[str, int]
) -> None:
    names = [f"q{number}" for number in range(12)]
    async with broker_at(url(groups=5)) as one, broker_at(url(**others)) as other:
        for name in names:
            await (await one.queue(name)).put(name, 1)
        for name in names:
            assert await in_line(await other.queue(name)) == [name]
        assert {info.name: info.group for info in await other.list_queues()} == {
            name: (await one.queue(name)).group for name in names
        }
    assert len(group_names(one)) == 5


@pytest.mark.parametrize("first", ["orders", "orders.dead"])
async def test_it_makes_no_difference_whether_the_dead_letters_are_made_first(
    url: Url, first: str
) -> None:
    async with broker_at(url(groups=30)) as broker:
        if first == "orders.dead":
            await broker.queue("orders.dead")
        orders, dead = await broker.create_queue_pair("orders")
        bills = await broker.queue("bills", dead_letters="orders.dead")
        assert orders.group == dead.group == bills.group != ""
        other, _ = await broker.create_queue_pair("other")
        assert other.group != orders.group


async def test_a_queue_may_be_in_the_broker_s_own_group_where_others_are_spread(url: Url) -> None:
    async with broker_at(url(groups=30)) as broker:
        own = await broker.queue("own", group="")
        orders = await broker.queue("orders", group="shop")
        spread = await broker.queue("spread")
        assert (own.group, orders.group) == ("", "shop")
        assert re.fullmatch(r"\d+-of-30-\d+", spread.group)


async def test_one_of_two_processes_decides_on_the_group(url: Url) -> None:
    for number in range(10):
        name, made = f"q{number}", list[LeasedQueue[Any, Any]]()
        async with broker_at(url()) as one, broker_at(url()) as other:

            async def make(broker: Broker, group: str) -> None:
                with suppress(ValueError):
                    made.append(await broker.queue(name, group=group))  # noqa: B023

            async with create_task_group() as tg:
                tg.start_soon(make, one, "shop")
                tg.start_soon(make, other, "bank")
            [queue] = made
            assert (await other.queue(name)).group == (await one.queue(name)).group == queue.group


# Processes that end half-way


class StoppedError(Exception):
    """A process ends here."""


@asynccontextmanager
async def ending_before(url: str, number: int) -> AsyncIterator[ValkeyBroker]:
    """A broker whose process ends before it makes so many changes of whole queues."""
    async with broker_at(url) as broker:
        changes = 0
        perform = broker._perform

        async def count(operation: Operation[Any], group: Any = None) -> Any:
            nonlocal changes
            if operation.family == "admin":
                changes += 1
                if changes > number:
                    raise StoppedError
            return await perform(operation, group)

        broker._perform = count  # type: ignore[method-assign]
        yield broker


async def is_there(broker: ValkeyBroker, group: str, name: str) -> bool:
    """Whether a queue is in a group, found or not."""
    place = broker._group(protocol.Declared("", {"group": group}))
    try:
        await broker._perform(protocol.Find(QueueRef(name)), place)
    except GoneError:
        return False
    return True


@pytest.mark.parametrize("number", range(2))
async def test_a_queue_that_is_made_half_is_made_by_the_next(url: Url, number: int) -> None:
    async with ending_before(url(), number) as one:
        with pytest.raises(StoppedError):
            await one.create_queue_pair("orders", group="shop")
    async with broker_at(url()) as other:
        assert await other.list_queues() == []
        with pytest.raises(LookupError, match="there is no queue 'orders'"):
            await other.queue("orders", make=False)
        with pytest.raises(LookupError, match="there is no queue 'orders'"):
            await other.purge("orders")
        queue, letters = await other.create_queue_pair("orders")
        assert queue.group == letters.group == ("shop" if number else "")
        await queue.put("a", 1)
        assert [info.name for info in await other.list_queues()] == ["orders", "orders.dead"]


@pytest.mark.parametrize("number", range(6))
async def test_a_queue_that_is_deleted_half_can_be_deleted_and_made_again(
    url: Url, number: int
) -> None:
    async with broker_at(url()) as broker:
        queue, _ = await broker.create_queue_pair("orders", group="shop", history=1)
        await queue.put("a", 1)
    async with ending_before(url(), number) as one:
        with pytest.raises(StoppedError):
            await one.delete_queue("orders")
    async with broker_at(url()) as other:
        left = {info.name for info in await other.list_queues()}
        assert ("orders" in left) == (number == 0)
        for name in ("orders", "orders.dead"):
            try:
                await other.delete_queue(name)
            except LookupError:
                assert name == "orders.dead" or number >= 2
        assert await other.list_queues() == []
        for name in ("orders", "orders.dead"):
            assert not await is_there(other, "shop", name)
        new, _ = await other.create_queue_pair("orders", group="bank", history=2)
        assert await in_line(new) == []


@pytest.mark.parametrize("change", range(1, 4))
async def test_a_queue_that_another_process_deletes_meanwhile_is_found_or_gone(
    url: Url, change: int
) -> None:
    """One makes it, and after each of its steps another one deletes it and makes it elsewhere."""
    async with broker_at(url()) as one, broker_at(url()) as other:
        steps = 0
        perform = one._perform

        async def interrupted(operation: Operation[Any], group: Any = None) -> Any:
            nonlocal steps
            steps += 1
            if steps == change:
                try:
                    await other.delete_queue("orders")
                except LookupError:
                    assert change == 1
                await other.queue("orders", group="bank")
            return await perform(operation, group)

        one._perform = interrupted  # type: ignore[method-assign]
        with fail_after(5):
            if change == 1:
                with pytest.raises(ValueError, match="has group='bank'"):
                    await one.queue("orders", group="shop")
            else:
                queue = None
                with pytest.raises(ValueError, match="has group='bank'"):
                    queue = await one.queue("orders", group="shop")
                assert queue is None
        assert (await one.queue("orders")).group == "bank"


@asynccontextmanager
async def interrupted(
    url: str, number: int, change: Callable[[], Awaitable[object]]
) -> AsyncIterator[ValkeyBroker]:
    """A broker before whose n-th request something else happens."""
    async with broker_at(url) as broker:
        requests = 0
        perform = broker._perform

        async def count(operation: Operation[Any], group: Any = None) -> Any:
            nonlocal requests
            requests += 1
            if requests == number:
                await change()
            return await perform(operation, group)

        broker._perform = count  # type: ignore[method-assign]
        yield broker


@pytest.mark.parametrize("request_number", range(1, 8))
@pytest.mark.parametrize("group", ["shop", "", None])
async def test_dead_letters_that_another_process_makes_meanwhile_decide_or_are_refused(
    url: Url, request_number: int, group: str | None
) -> None:
    """Whoever comes second is refused, or follows; nothing is left half made, or out of reach."""
    async with broker_at(url()) as other:

        async def make() -> None:
            with suppress(ValueError):  # the queue was first
                await (await other.queue("lost", group="bank")).put("a", 1)

        async with interrupted(url(), request_number, make) as one:
            refused, queue = "", None
            try:
                queue = await one.queue("orders", dead_letters="lost", group=group)
            except ValueError as error:
                refused = str(error)
            if queue is None:
                assert "write group='bank'" in refused
                assert [info.name for info in await other.list_queues()] == ["lost"]
            else:
                assert (await one.dead_letters("orders")).group == queue.group
        for info in await other.list_queues():
            assert info.group == (await other.queue(info.name)).group
            assert (info.name, info.group, info.ready) in [
                ("lost", "bank", 1),
                ("lost", group or "", 0),
                ("orders", "bank", 0),
                ("orders", group or "", 0),
            ]


@pytest.mark.parametrize("request_number", range(1, 8))
@pytest.mark.parametrize("group", ["shop", ""])
async def test_a_pair_that_another_process_deletes_meanwhile_is_a_pair(
    url: Url, request_number: int, group: str
) -> None:
    async with broker_at(url()) as other:
        await other.create_queue_pair("orders", group=group)

        async def delete() -> None:
            await other.delete_queue("orders")

        async with interrupted(url(), request_number, delete) as one:
            with suppress(LookupError):  # it is gone again
                _, dead = await one.create_queue_pair("orders")
                assert dead.name == "orders.dead"
        async with broker_at(url()) as third:
            queue, dead = await third.create_queue_pair("orders")
            assert queue.group == dead.group


async def without_dead_letters(broker: ValkeyBroker, group: str) -> None:
    """Delete the dead letters of a queue, as if it was made while they were deleted."""
    for place in (group, ""):
        delete = protocol.Delete(QueueRef("orders.dead"))
        await broker._perform(delete, broker._group(protocol.Declared("", {"group": place})))


async def test_dead_letters_that_are_gone_are_made_again_in_the_group_of_their_queue(
    url: Url,
) -> None:
    for find in ("queue", "dead_letters", "create_queue_pair"):
        async with broker_at(url()) as one, broker_at(url(groups=30)) as other:
            await one.create_queue_pair("orders", group="shop")
            await without_dead_letters(one, "shop")
            await getattr(other, find)("orders")
            assert {info.name: info.group for info in await other.list_queues()} == {
                "orders": "shop",
                "orders.dead": "shop",
            }
            await one.delete_queue("orders")


async def test_dead_letters_that_moved_to_another_group_are_found_there(url: Url) -> None:
    async with broker_at(url()) as one, broker_at(url()) as other:
        _, old = await one.create_queue_pair("orders", group="shop")
        await other.delete_queue("orders")
        await other.create_queue_pair("orders", group="bank")
        assert (await one.dead_letters("orders")).group == "bank"
        assert old.closed


async def test_a_queue_is_deleted_without_dead_letters_of_another_group(url: Url) -> None:
    async with broker_at(url()) as one, broker_at(url()) as other:
        await one.create_queue_pair("orders", group="shop")
        await without_dead_letters(one, "shop")
        lost = await other.queue("orders.dead", group="bank")
        await lost.put("a", 1)
        for ask in (other.queue, other.dead_letters):
            with pytest.raises(ValueError, match=r"'orders\.dead' is in group 'bank', and cannot"):
                await ask("orders")
        await one.delete_queue("orders")
        assert [info.name for info in await one.list_queues()] == ["orders.dead"]
        assert await in_line(lost) == ["a"]


# Processes and their time


async def test_run_runs_groups_that_are_opened_meanwhile(url: Url) -> None:
    async with broker_at(url()) as one, broker_at(url()) as other, create_task_group() as tg:
        await tg.start(one.run)
        got: list[str] = []

        async def consume(group: str) -> None:
            queue = await one.queue(f"{group}s", group=group, default_lease_timeout=10.0)
            async for lease in queue:
                async with lease:
                    got.append(lease.key)

        for group in ("a", "b", "c"):
            tg.start_soon(consume, group)
        await eventually(lambda: len(one._handles) == 3)
        await eventually(
            lambda: all(
                group.dispatcher and group.dispatcher._runs + group.dispatcher._led == 1
                for group in groups_of(one)
            )
        )
        for group in ("a", "b", "c"):
            await (await other.queue(f"{group}s")).put(group, 1)
        with fail_after(5):
            await eventually(lambda: sorted(got) == ["a", "b", "c"])
        tg.cancel_scope.cancel()


async def test_run_ends_with_the_broker_whatever_groups_there_are(url: Url) -> None:
    with fail_after(5):
        async with create_task_group() as tg, broker_at(url()) as broker:
            await tg.start(broker.run)
            for group in ("a", "b", "c"):
                await broker.queue(group, group=group)
    with fail_after(5):
        async with broker_at(url()) as broker:
            await broker.queue("a")
            with move_on_after(0.2):
                await broker.run()


async def test_a_wait_without_run_is_woken_in_its_group(url: Url) -> None:
    async with broker_at(url()) as one, broker_at(url()) as other:
        queue, there = await one.queue("a", group="a"), await other.queue("a")
        bound = await one.queue("b", group="b")
        got: list[object] = []

        async def consume() -> None:
            got.append((await queue.get())[0])

        with fail_after(5):
            async with create_task_group() as tg:
                tg.start_soon(consume)
                await eventually(lambda: queue._engine._waiters.total == 1)
                await bound.put("b", 1)
                await there.put("a", 1)
        assert got == ["a"]


async def test_leases_of_all_groups_go_back_when_a_broker_is_closed(url: Url) -> None:
    async with broker_at(url()) as other:
        async with broker_at(url()) as one:
            for group in ("a", "b", ""):
                queue = await one.queue(f"q{group}", group=group)
                await queue.put("x", 1)
                await queue.get(lease_timeout=None)
        for group in ("a", "b", ""):
            queue = await other.queue(f"q{group}")
            assert await in_line(queue) == ["x"]


@pytest.mark.parametrize("group", [None, "shop", ""])
async def test_all_that_belongs_to_tasks_is_in_one_group(url: Url, group: str | None) -> None:
    async with broker_at(url(groups=30)) as broker, create_task_group() as tg:
        await tg.start(broker.run)
        tasks = TaskQueue(broker, group=group)

        @tasks.task(result_ttl=60.0)
        async def double(number: int) -> int:
            return 2 * number

        task = await tasks.push(double.task(21))
        worker = TaskWorker(tasks)
        await tg.start(worker.run)
        with fail_after(5):
            assert await tasks.result(task) == 42
        worker.stop()
        groups = {info.group for info in await broker.list_queues()}
        assert len(groups) == 1
        assert group is None or groups == {group}
        tg.cancel_scope.cancel()


# Rights


async def test_a_user_can_be_kept_to_some_groups(server: Server, url: Url) -> None:
    prefix = ValkeyUrl.parse(url()).prefix
    lines = re.findall(r"^~\{leaseq.*&\{leaseq.*\}:p:\*$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 2
    patterns = " ".join(lines).replace("{leaseq", f"{{{prefix}").split()
    server.command("ACL", "SETUSER", "bob", "reset", "on", ">secret", "+@all", *patterns)
    async with broker_at(url()) as free:
        for name, group in {"orders:eu": "shop", "bills": "shop:eu", "other": "shop2"}.items():
            await (await free.queue(name, group=group)).put("a", 1)
        async with broker_at(url().replace("://", "://bob:secret@")) as broker:
            orders = await broker.queue("orders", group="shop")
            await orders.put("a", 1)
            await (await orders.get())[2].ack()
            for name in ("orders:eu", "bills", "other"):
                with pytest.raises((ServerError, UnusableServerError), match=r"NOPERM|ACL lacks"):
                    await broker.queue(name)
            for name in ("bills", "other"):
                with pytest.raises((ServerError, UnusableServerError), match=r"NOPERM|ACL lacks"):
                    await broker.queue(name, make=False)


async def test_the_page_s_pattern_for_groups_is_for_those_of_this_prefix(
    server: Server, url: Url
) -> None:
    prefix = ValkeyUrl.parse(url()).prefix
    assert "~{leaseq/* &{leaseq/*" in PAGE.read_text()
    mine = [f"~{{{prefix}}}:*", f"~{{{prefix}/*", f"&{{{prefix}}}:p:*", f"&{{{prefix}/*"]
    server.command("ACL", "SETUSER", "bob", "reset", "on", ">secret", "+@all", *mine)
    async with leaseq.connect(url(groups=7).replace("://", "://bob:secret@")) as broker:
        for number in range(7):
            await (await broker.queue(f"q{number}")).put("a", 1)
        assert len({info.group for info in await broker.list_queues()}) == 7
    other = url().replace(prefix, f"{prefix}2").replace("://", "://bob:secret@")
    with pytest.raises((ServerError, UnusableServerError), match=r"NOPERM|ACL lacks"):
        async with leaseq.connect(other) as broker:
            await broker.queue("q0")


async def test_all_keys_of_a_group_are_in_its_slot(server: Server, url: Url) -> None:
    prefix = ValkeyUrl.parse(url()).prefix
    async with broker_at(url()) as broker:
        orders, _ = await broker.create_queue_pair("orders", group="shop", history=3)
        await orders.put_many({"a": 1, "b": 2}, tenant="x")
        await (await orders.get())[2].ack()
    keys = server.command("KEYS", f"{{{prefix}*").decode().split("\r\n")[2::2]
    own = {key for key in keys if key.startswith(f"{{{prefix}}}:")}
    there = {key for key in keys if key.startswith(f"{{{group_tag(prefix, 'shop')}}}:")}
    assert own | there == {*keys}
    assert {key.rpartition(":")[2] for key in own} == {
        *("calls", "queues", "orders/state", "orders.dead/state")
    }
