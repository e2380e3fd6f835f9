"""What is particular to the queue in this process."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio import CancelScope, WouldBlock, create_task_group, from_thread, to_thread
from tests.contract.helpers import in_line, others_run, suspensions, until

from leaseq import (
    KeyAlreadyInFlightError,
    LeasedKeyQueue,
    PutOutcome,
    QueueClosedError,
    TimekeeperNotRunningError,
)
from leaseq._core.loop import CALLS, budget_for_tests

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, object]


@pytest.fixture
def queue() -> Queue:
    return LeasedKeyQueue(name="pages")


# Checkpoints


async def test_the_first_call_in_a_while_is_one_checkpoint(queue: Queue) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: queue.put("a", 1),
        lambda: queue.put_many({"b": 1, "c": 1}),
        lambda: queue.add(1),
        queue.get,
        lambda: queue.get(timeout=60),
        lambda: queue.take("c"),
    ]
    for call in calls:
        with budget_for_tests(1):
            assert await suspensions(call()) == 1


async def test_those_that_follow_and_need_not_wait_do_not_suspend(queue: Queue) -> None:
    with budget_for_tests(CALLS):
        assert await suspensions(queue.put("a", 1)) == 0
        assert await suspensions(queue.put_many({"b": 1, "c": 1})) == 0
        assert await suspensions(queue.add(1)) == 0
        assert await suspensions(queue.get()) == 0
        assert await suspensions(queue.get(timeout=60)) == 0
        assert await suspensions(queue.take("c")) == 0
        assert await suspensions(queue.get_batch(10)) == 0


async def test_a_join_that_need_not_wait_is_one_checkpoint(queue: Queue) -> None:
    assert await suspensions(queue.join()) == 1


async def test_entering_a_lease_is_the_one_checkpoint_of_its_get(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    with budget_for_tests(1):
        assert await suspensions(queue.lease().__aenter__()) == 1


async def test_a_queue_in_a_hurry_has_no_checkpoint_where_it_need_not_wait() -> None:
    queue: Queue = LeasedKeyQueue(fast_acquire=True)
    assert await suspensions(queue.put("a", 1)) == 0
    assert await suspensions(queue.put_many({"b": 1, "c": 1})) == 0
    assert await suspensions(queue.add(1)) == 0
    assert await suspensions(queue.get()) == 0
    assert await suspensions(queue.take("c")) == 0


async def test_a_queue_in_a_hurry_waits_where_it_has_to() -> None:
    keys: list[str] = []
    queue: Queue = LeasedKeyQueue(fast_acquire=True)

    async def consume() -> None:
        key, _, _ = await queue.get()
        keys.append(key)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await queue.put("a", 1)
    assert keys == ["a"]


async def test_a_queue_in_a_hurry_can_be_cancelled_where_it_waits() -> None:
    queue: Queue = LeasedKeyQueue(fast_acquire=True)
    with CancelScope() as scope:
        scope.cancel()
        await queue.get()
    assert scope.cancelled_caught


async def test_settling_a_lease_never_suspends(queue: Queue) -> None:
    await queue.put_many(dict.fromkeys("abc", 1))
    leases = [(await queue.get())[2] for _ in range(3)]
    assert await suspensions(queue.extend(leases[0], None)) == 0
    assert await suspensions(queue.ack(leases[0])) == 0
    assert await suspensions(queue.release(leases[1])) == 0
    assert await suspensions(queue._give_back(leases[2])) == 0


async def test_looking_into_the_queue_never_suspends(queue: Queue) -> None:
    for look in (
        queue.peek("a"),
        queue.contains("a"),
        queue.state("a"),
        queue.discard("a"),
        queue.available_keys(),
        queue.delayed_keys(),
        queue.inflight_keys(),
        queue.qsize(),
        queue.inflight_size(),
        queue.statistics(),
        queue.inflight(),
    ):
        assert await suspensions(look) == 0


async def test_ending_the_queue_never_suspends(queue: Queue) -> None:
    assert await suspensions(queue.shutdown()) == 0
    assert await suspensions(queue.close()) == 0
    assert await suspensions(queue.__aexit__(None, None, None)) == 0


@pytest.mark.parametrize("error", [None, KeyError(), KeyboardInterrupt()])
async def test_leaving_a_body_never_suspends(queue: Queue, error: BaseException | None) -> None:
    queue.put_nowait("a", 1)
    body = queue.lease()
    await body.__aenter__()
    leave = body.__aexit__(None if error is None else type(error), error, None)
    assert await suspensions(leave) == 0


async def test_work_that_is_done_is_acked_in_spite_of_a_cancellation(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    with CancelScope() as scope:
        _, _, lease = await queue.get()
        scope.cancel()
        await queue.ack(lease)
    assert lease.ended == "acked"


@pytest.mark.parametrize("fast_acquire", [False, True])
async def test_a_cancelled_consumer_finds_out_at_its_next_wait(fast_acquire: bool) -> None:
    queue: Queue = LeasedKeyQueue(fast_acquire=fast_acquire)
    queue.put_nowait("a", 1)
    with CancelScope() as scope:
        scope.cancel()
        await queue.get()
    assert scope.cancelled_caught is not fast_acquire
    assert await in_line(queue) == ["a"] * (not fast_acquire)


# Without waiting


async def test_an_item_can_be_put_got_and_acked_without_waiting(queue: Queue) -> None:
    assert queue.put_nowait("a", 1) is PutOutcome.ADDED
    key, value, lease = queue.get_nowait()
    assert (key, value, lease.key) == ("a", 1, "a")
    assert queue.ack_nowait(lease) is False
    assert await queue.state("a") == "absent"


async def test_many_items_can_be_put_without_waiting(queue: Queue) -> None:
    assert queue.put_many_nowait({"a": 1, "b": 2}) == [PutOutcome.ADDED, PutOutcome.ADDED]
    assert await in_line(queue) == ["a", "b"]


async def test_one_key_can_be_taken_without_waiting(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 2})
    key, value, _ = queue.take_nowait("b", lease_timeout=None)
    assert (key, value) == ("b", 2)


async def test_a_lease_can_be_released_and_extended_without_waiting(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 2})
    _, _, lease = queue.get_nowait()
    queue.extend_nowait(lease, None)
    queue.release_nowait(lease, requeue_front=True, counted=False)
    _, _, lease = queue.get_nowait()
    assert (lease.key, lease.deliveries) == ("a", 1)


async def test_what_would_have_to_wait_says_so(queue: Queue) -> None:
    with pytest.raises(WouldBlock, match="0 ready, 0 leased>: no item is ready"):
        queue.get_nowait()
    with pytest.raises(WouldBlock, match="key 'a' is not ready"):
        queue.take_nowait("a")
    assert (await queue.statistics()).getters == 0


async def test_putting_without_waiting_wakes_who_waits(queue: Queue) -> None:
    values: list[object] = []

    async def consume() -> None:
        _, value, _ = await queue.get()
        values.append(value)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        queue.put_nowait("a", 1)
    assert values == [1]


async def test_misuse_without_waiting_is_refused_too(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    with pytest.raises(ValueError, match="lease_timeout must be more than 0"):
        queue.get_nowait(lease_timeout=0)
    with pytest.raises(TimekeeperNotRunningError, match=r"lease of 60 s .*'pages'"):
        queue.get_nowait(lease_timeout=60)
    with pytest.raises(TimekeeperNotRunningError):
        queue.take_nowait("a", lease_timeout=60)
    _, _, lease = queue.get_nowait()
    with pytest.raises(TimekeeperNotRunningError):
        queue.extend_nowait(lease, 60)
    with pytest.raises(KeyAlreadyInFlightError):
        queue.put_nowait("a", 2, if_in_flight="reject")


# The end


async def test_what_is_left_in_a_closed_queue_can_be_drained_in_order(queue: Queue) -> None:
    queue.put_many_nowait({key: key.upper() for key in "abcd"})
    _, _, second = queue.take_nowait("b")
    _, _, first = queue.take_nowait("a")
    queue.put_nowait("a", "update")
    await queue.close()
    assert (first.ended, second.ended) == ("lost", "lost")
    assert queue.drain_nowait() == [("b", "B"), ("a", "update"), ("c", "C"), ("d", "D")]
    assert queue.drain_nowait() == []


async def test_an_open_queue_can_be_drained_of_what_is_ready(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 2, "c": 3})
    queue.get_nowait()
    assert queue.drain_nowait() == [("b", 2), ("c", 3)]
    statistics = await queue.statistics()
    assert (statistics.ready, statistics.leased, statistics.dropped) == (0, 1, 2)


async def test_a_join_that_was_told_ends_whatever_is_put_since(queue: Queue) -> None:
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with anyio.fail_after(5):
        async with create_task_group() as tg:
            tg.start_soon(queue.join)
            await others_run()
            await queue.ack(lease)
            await queue.put("a", 2)
    assert await queue.qsize() == 1


async def test_draining_what_is_left_ends_a_join(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        await anyio.wait_all_tasks_blocked()
        queue.drain_nowait()


async def test_a_closed_queue_that_was_drained_can_be_joined(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    await queue.close()
    queue.drain_nowait()
    await queue.join()


async def test_a_closed_queue_can_be_looked_into(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 2})
    queue.get_nowait()
    await queue.close()
    assert await queue.available_keys() == {"a", "b"}
    assert await queue.peek("a") == 1
    assert await queue.inflight_size() == 0


async def test_an_error_of_a_closed_queue_tells_whether_all_was_done(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    await queue.close()
    with pytest.raises(QueueClosedError) as left:
        queue.get_nowait()
    assert not left.value.drained
    queue.drain_nowait()
    with pytest.raises(QueueClosedError) as nothing_left:
        queue.get_nowait()
    assert nothing_left.value.drained


async def test_a_queue_shows_its_name_and_state(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 1, "c": 1})
    queue.get_nowait()
    assert repr(queue) == "<LeasedKeyQueue 'pages' open: 2 ready, 1 leased>"
    await queue.shutdown()
    assert repr(queue) == "<LeasedKeyQueue 'pages' shut down: 2 ready, 1 leased>"
    await queue.close()
    assert repr(queue) == "<LeasedKeyQueue 'pages' closed: 3 ready, 0 leased>"


# Threads


async def test_a_thread_can_put_through_the_event_loop(queue: Queue) -> None:
    values: list[object] = []

    async def consume() -> None:
        _, value, _ = await queue.get()
        values.append(value)

    def produce() -> None:
        from_thread.run_sync(queue.put_nowait, "a", 1)

    async with create_task_group() as tg:
        tg.start_soon(consume)
        await until(queue, getters=1)
        await to_thread.run_sync(produce)
    assert values == [1]


async def in_a_thread(call: Callable[..., object], *args: object) -> None:
    """Call from a thread what must not be, and see that it is refused."""
    with pytest.raises(RuntimeError, match=r"from a thread, .* anyio\.from_thread\.run_sync"):
        await to_thread.run_sync(call, *args)


async def test_a_thread_cannot_put_past_the_event_loop(queue: Queue) -> None:
    async with create_task_group() as tg:
        tg.start_soon(queue.get)
        await until(queue, getters=1)
        await in_a_thread(queue.put_nowait, "a", 1)
        await in_a_thread(queue.put_many_nowait, {"a": 1})
        assert await queue.state("a") == "absent"
        tg.cancel_scope.cancel()


async def test_a_thread_cannot_release_past_the_event_loop(queue: Queue) -> None:
    queue.put_nowait("a", 1)
    _, _, lease = queue.get_nowait()
    async with create_task_group() as tg:
        tg.start_soon(queue.get)
        await until(queue, getters=1)
        await in_a_thread(queue.release_nowait, lease)
        assert lease.ended is None
        tg.cancel_scope.cancel()


async def test_a_thread_cannot_end_a_join_past_the_event_loop(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 1})
    _, _, lease = queue.get_nowait()
    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        await anyio.wait_all_tasks_blocked()
        await in_a_thread(queue.ack_nowait, lease)
        await in_a_thread(queue.drain_nowait)
        assert lease.ended is None
        assert await queue.available_keys() == {"b"}
        tg.cancel_scope.cancel()


async def test_a_thread_cannot_hurry_the_timekeeper_past_the_event_loop(queue: Queue) -> None:
    queue.put_many_nowait({"a": 1, "b": 1})
    async with create_task_group() as tg:
        await tg.start(queue.run)
        _, _, lease = queue.get_nowait()
        await in_a_thread(queue.extend_nowait, lease, 60)
        await in_a_thread(lambda: queue.get_nowait(lease_timeout=60))
        assert await queue.available_keys() == {"b"}
        tg.cancel_scope.cancel()


# Other event loops


def run(main: Callable[[], Awaitable[object]], backend: tuple[str, dict[str, Any]]) -> None:
    """Run something in an event loop of its own."""
    name, options = backend
    anyio.run(main, backend=name, backend_options=options)


def test_a_queue_can_be_made_and_filled_before_there_is_an_event_loop(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    queue: Queue = LeasedKeyQueue()
    queue.put_nowait("a", 1)
    queue.put_many_nowait({"b": 1, "c": 1})

    async def main() -> None:
        assert await in_line(queue) == ["a", "b", "c"]

    run(main, anyio_backend)


def test_a_queue_belongs_to_one_event_loop(anyio_backend: tuple[str, dict[str, Any]]) -> None:
    queue: Queue = LeasedKeyQueue()

    async def first() -> None:
        await queue.put("a", 1)

    async def second() -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.put("b", 1),
            lambda: queue.put_many({"b": 1}),
            queue.get,
            lambda: queue.take("a"),
            queue.join,
            queue.run,
            queue.shutdown,
            queue.close,
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="belongs to an event loop that is over"):
                await call()
        assert await queue.available_keys() == {"a"}

    run(first, anyio_backend)
    run(second, anyio_backend)


ELSEWHERE: dict[str, Callable[[Queue, Any], object]] = {
    "put": lambda queue, lease: queue.put_nowait("b", 1),
    "put with options": lambda queue, lease: queue.put_nowait("b", 1, tenant="t"),
    "put_many": lambda queue, lease: queue.put_many_nowait({"b": 1}),
    "get": lambda queue, lease: queue.get_nowait(),
    "take": lambda queue, lease: queue.take_nowait("ready"),
    "ack": lambda queue, lease: queue.ack_nowait(lease),
    "release": lambda queue, lease: queue.release_nowait(lease),
    "reject": lambda queue, lease: queue.reject_nowait(lease, "no"),
    "extend": lambda queue, lease: queue.extend_nowait(lease, None),
    "drain": lambda queue, lease: queue.drain_nowait(),
}


@pytest.mark.parametrize("mode", ["a task waits", "development mode"])
@pytest.mark.parametrize("call", ELSEWHERE)
async def test_a_call_from_another_thread_is_told(
    call: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaseq._memory.engine._CHECKED", mode == "development mode")
    queue: Queue = LeasedKeyQueue(max_size=2)
    for key in ("mine", "ready"):
        await queue.put(key, 1)
    _, _, lease = await queue.get()
    async with anyio.create_task_group() as tg:
        if mode == "a task waits":
            tg.start_soon(queue.put_many, {"c": 3, "d": 4})
            tg.start_soon(queue.join)
            await until(queue, putters=1)
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await to_thread.run_sync(ELSEWHERE[call], queue, lease)
        assert (await queue.available_keys(), lease.ended) == ({"ready"}, None)
        tg.cancel_scope.cancel()


def test_a_queue_may_be_filled_before_its_event_loop_runs_in_development_mode(
    anyio_backend: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaseq._memory.engine._CHECKED", True)
    queue: Queue = LeasedKeyQueue()
    queue.put_nowait("a", 1)

    async def main() -> None:
        assert await in_line(queue) == ["a"]

    run(main, anyio_backend)


async def test_options_that_are_given_again_are_the_ones_that_were_given(queue: Queue) -> None:
    await queue.put_many({"a": 1, "b": 2}, tenant="x")
    await queue.put_many({"c": 3, "d": 4}, tenant="y")
    mine = ["x"]
    assert (await queue.get(0, tenants=mine))[0] == "a"
    mine[0] = "y"
    assert (await queue.get(0, tenants=mine))[0] == "c"
    for key in ("b", "d"):
        tenants = ("x",) if key == "b" else ("y",)
        _, _, lease = await queue.get(0, tenants=tenants, consumer=key)
        assert lease.key == key
    assert [flight.consumer for flight in await queue.inflight()] == [None, None, "b", "d"]


async def test_options_that_are_never_given_again_are_forgotten(queue: Queue) -> None:
    for number in range(200):
        await queue.put("a", number)
        _, _, lease = await queue.get(consumer=str(number))
        await queue.ack(lease)
    assert len(queue._engine.requests) <= 64


# Keys that change


class Changing:
    """A key that is not as it should be: it can change."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Changing) and self.name == other.name


TURNS = [{}, {"tenant": "t"}, {"priority": 5}]
ENDS: dict[str, Callable[[LeasedKeyQueue[Any, int], Any], Awaitable[object]]] = {
    "ack": lambda queue, lease: queue.ack(lease),
    "release": lambda queue, lease: queue.release(lease),
    "reject": lambda queue, lease: queue.reject(lease, "no"),
    "give back": lambda queue, lease: queue._give_back(lease),
    "fail": lambda queue, lease: queue._fail(lease, KeyError()),
}


async def values_left(queue: LeasedKeyQueue[Any, int]) -> list[int]:
    """Take and acknowledge all that is ready."""
    left = []
    while True:
        try:
            _, value, lease = await queue.get(timeout=0)
        except TimeoutError:
            return left
        left.append(value)
        await queue.ack(lease)


@pytest.mark.parametrize(
    "name", ["new", "b", []], ids=["unlike others", "like another", "not hashable"]
)
@pytest.mark.parametrize("options", TURNS, ids=str)
@pytest.mark.parametrize("how", [None, *ENDS])
async def test_a_key_that_changes_costs_nobody_an_item(
    how: str | None, options: dict[str, Any], name: Any
) -> None:
    queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue()
    changing = Changing("a")
    await queue.put(changing, 1, **options)
    for other in "bcd":
        await queue.put(Changing(other), 2, **options)
    lease = None
    if how is not None:
        _, _, lease = await queue.get()
    changing.name = name
    if how is not None:
        await ENDS[how](queue, lease)
    left = await values_left(queue)
    ended = how in ("ack", "reject")
    assert sorted(left) == ([2, 2, 2] if ended else [1, 2, 2, 2])
    counts = await queue.statistics()
    assert counts.put == counts.acked + counts.dropped == 4
    assert counts.ready == counts.leased == 0
    await queue.close()


class Raising(Changing):
    """A key that cannot be looked up any more once it is told to raise."""

    raises = False

    def __hash__(self) -> int:
        if self.raises:
            raise RuntimeError("no hash")
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        if self.raises:
            raise RuntimeError("not to be compared")
        return super().__eq__(other)


@pytest.mark.parametrize("options", TURNS, ids=str)
@pytest.mark.parametrize("early", [True, False], ids=["before its hand-out", "after it"])
@pytest.mark.parametrize("how", ENDS)
async def test_a_key_that_raises_costs_nobody_an_item(
    how: str, early: bool, options: dict[str, Any]
) -> None:
    queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue(dedupe_for=5.0)
    raising = Raising("a")
    await queue.put(raising, 1, **options)
    for other in "bcd":
        await queue.put(Raising(other), 2, **options)
    raising.raises = early
    _, value, lease = await queue.get()
    assert value == 1
    raising.raises = True
    await ENDS[how](queue, lease)
    left = await values_left(queue)
    assert sorted(left) == ([2, 2, 2] if how in ("ack", "reject") else [1, 2, 2, 2])
    counts = await queue.statistics()
    assert counts.put == counts.acked + counts.dropped == 4
    await queue.join()
    await queue.close()


@pytest.mark.parametrize("change", ["raises", "another name"])
async def test_a_key_that_changes_when_it_is_done_disturbs_no_later_ack(change: str) -> None:
    queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue(dedupe_for=60.0)
    keys = [Raising(name) for name in "abc"]
    for key in keys:
        await queue.put(key, 1)
        _, _, lease = await queue.get()
        assert await queue.ack(lease) is False
        if change == "raises":
            key.raises = True
        else:
            key.name = "z"
    assert (await queue.statistics()).acked == 3


@pytest.mark.parametrize("options", TURNS, ids=str)
async def test_a_key_that_raises_loses_no_item_that_has_a_time(options: dict[str, Any]) -> None:
    queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue()
    async with anyio.create_task_group() as tg:
        await tg.start(queue.run)
        mortal, late = Raising("a"), Raising("b")
        await queue.put(mortal, 1, ttl=60.0, **options)
        await queue.put(late, 2, delay=0.01, **options)
        mortal.raises = late.raises = True
        for value in (1, 2):
            assert (await queue.get(5.0, lease_timeout=60.0))[1] == value
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("options", TURNS, ids=str)
@pytest.mark.parametrize("how", ENDS)
async def test_a_key_that_raises_keeps_nobody_waiting(how: str, options: dict[str, Any]) -> None:
    queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue(max_size=1)
    raising = Raising("a")
    await queue.put(raising, 1, **options)
    _, _, lease = await queue.get()
    await queue.put("full", 2, **options)
    got: list[int] = []

    async def consume() -> None:
        while True:
            _, value, lease = await queue.get()
            got.append(value)
            await queue.ack(lease)

    async with anyio.create_task_group() as tg:
        tg.start_soon(queue.put, "next", 3)
        await until(queue, putters=1)
        raising.raises = True
        tg.start_soon(consume)
        await until(queue, getters=1)
        await ENDS[how](queue, lease)
        await others_run()  # the producer, which has been told that there is room
        await queue.join()
        tg.cancel_scope.cancel()
    assert sorted(got) == ([2, 3] if how in ("ack", "reject") else [1, 2, 3])


@pytest.mark.parametrize("end", ["cancel", "shutdown", "close"])
async def test_whoever_waits_for_a_key_that_raises_can_leave(end: str) -> None:
    queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue(max_size=1)
    await queue.put("full", 2)
    raising = [Raising(name) for name in "ab"]
    ended = []

    async def wait(call: Callable[..., Awaitable[object]], *args: Any) -> None:
        with pytest.raises((QueueClosedError, anyio.get_cancelled_exc_class())) as caught:
            await call(*args)
        ended.append(caught.type)
        if not issubclass(caught.type, QueueClosedError):
            raise caught.value

    async with anyio.create_task_group() as tg:
        for key in raising:
            tg.start_soon(wait, queue.take, key)
        await until(queue, takers=2)
        tg.start_soon(wait, queue.put, raising[0], 1)
        await until(queue, putters=1)
        for key in raising:
            key.raises = True
        if end == "cancel":
            tg.cancel_scope.cancel()
        else:
            await getattr(queue, end)()
    assert len(ended) == 3
    counts = await queue.statistics()
    assert (counts.takers, counts.putters, counts.ready) == (0, 0, 1)


@pytest.mark.parametrize("options", [{}, {"tenant": "t"}], ids=str)
async def test_a_queue_with_a_key_that_has_changed_can_be_emptied_and_closed(
    options: dict[str, Any],
) -> None:
    for end in ("drain", "close"):
        queue: LeasedKeyQueue[Any, int] = LeasedKeyQueue()
        keys = [Changing(name) for name in "abc"]
        for key in keys:
            await queue.put(key, 1, **options)
        _, _, lease = await queue.get()
        keys[0].name = keys[1].name = "x"
        if end == "drain":
            assert len(queue.drain_nowait()) == 2
            await queue.ack(lease)
        await queue.close()
        assert lease.ended == ("acked" if end == "drain" else "lost")
