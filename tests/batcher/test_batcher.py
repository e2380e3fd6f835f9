"""The batcher: what goes when, what fails, what is left at the end; and what beque does there."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, field
from functools import partial
from math import inf, nan
from types import SimpleNamespace
from typing import Any, Literal

import anyio
import pytest
from anyio import (
    BusyResourceError,
    CancelScope,
    Event,
    WouldBlock,
    create_task_group,
    current_time,
    fail_after,
    move_on_after,
    wait_all_tasks_blocked,
)
from anyio.lowlevel import checkpoint
from beque import Beque
from hypothesis import given, settings, strategies

from leaseq import (
    Backoff,
    Batcher,
    BatcherStatistics,
    LeaseqError,
    QueueClosedError,
    Retry,
    TimekeeperNotRunningError,
)
from leaseq._batcher.buffer import Buffer
from leaseq._batcher.flusher import Flusher
from leaseq.testing import Operation, advance, cancel_sweep, virtual_backend

pytestmark = pytest.mark.anyio

virtual_time = pytest.mark.virtual_time
asyncio_only = pytest.mark.only("asyncio")

SEED = 3
BACKOFF = Backoff(base=8.0, ceiling=100.0, seed=SEED)
FIRST_REST = Backoff(base=8.0, ceiling=100.0, seed=SEED).delay(1)


def retry(max_deliveries: int | None = None) -> Retry:
    """A policy whose first rest is `FIRST_REST`."""
    return Retry(max_deliveries, Backoff(base=8.0, ceiling=100.0, seed=SEED))


class DownError(Exception):
    """What a callback raises whose database, say, is down."""


class Recorder:
    """A callback that keeps what it gets; at first it raises some errors, one each time.

    Attributes:
        flushed: The batches that came through.
        tried: All batches it was called with, and when.
        takes: Seconds for each batch.
    """

    def __init__(self, *errors: BaseException, takes: float = 0.0) -> None:
        self.flushed: list[list[int]] = []
        self.tried: list[tuple[float, list[int]]] = []
        self.takes = takes
        self._errors = list(errors)

    async def __call__(self, batch: list[int]) -> None:
        self.tried.append((current_time(), batch))
        await anyio.sleep(self.takes)
        if self._errors:
            raise self._errors.pop(0)
        self.flushed.append(batch)

    @property
    def items(self) -> list[int]:
        return [item for batch in self.flushed for item in batch]

    def delays(self) -> list[float]:
        """How long after the first call each other one came."""
        first = self.tried[0][0]
        return [time - first for time, _ in self.tried[1:]]


class Failing(Recorder):
    """A callback that raises for as long as it is down."""

    down = True

    async def __call__(self, batch: list[int]) -> None:
        if self.down:
            self.tried.append((current_time(), batch))
            raise DownError("down")
        await super().__call__(batch)


@asynccontextmanager
async def running(batcher: Batcher[Any]) -> AsyncIterator[None]:
    """Its `run` runs as long as the body does."""
    async with create_task_group() as tg:
        await tg.start(batcher.run)
        yield
        tg.cancel_scope.cancel()


async def noop(batch: list[int]) -> None:
    pass


# Making one


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be 1 or more items, not 0"),
        ({"flush_interval": -1}, "flush_interval must be 0 seconds or more, not -1"),
        ({"flush_interval": nan}, "flush_interval must be 0 seconds or more, not nan"),
        ({"max_pending": 0}, "max_pending must be 1 or more, or math.inf, not 0"),
        ({"max_pending": nan}, "max_pending must be 1 or more, or math.inf, not nan"),
        ({"shutdown_timeout": -1}, "shutdown_timeout must be 0 seconds or more, not -1"),
        ({"retry": Retry(max_deliveries=3)}, "with max_deliveries=3 .* give on_give_up="),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_the_way_out(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Batcher(noop, **options)


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="on_flush must be a function, not 'no'"):
        Batcher("no")  # type: ignore[arg-type]


async def generator(batch: list[int]) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_pending": 2.5}, "max_pending must be a whole number of 1 or more, or math.inf"),
        ({"max_pending": "3"}, "max_pending must be a whole number of 1 or more, or math.inf"),
        ({"on_give_up": 5}, "on_give_up must be a function, not 5"),
        ({"on_give_up": noop}, "on_give_up is called with a list and an error, which"),
        ({"on_give_up": generator}, "on_give_up has a yield in it"),
        ({"on_flush": generator}, "on_flush has a yield in it"),
        ({"on_flush": lambda: None}, "on_flush is called with a list, which"),
        ({"logger": "rows"}, "logger must be a logging.Logger or None, not 'rows'"),
        ({"fast_acquire": 1}, "fast_acquire must be True or False, not 1"),
        ({"size": 3}, r"Batcher\(\) has no option 'size': it has .*max_batch_size"),
    ],
)
def test_an_option_of_a_wrong_kind_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Batcher(**{"on_flush": noop, **options})


async def test_it_says_what_it_is() -> None:
    batcher = Batcher(noop, name="rows")
    assert repr(batcher) == "<Batcher 'rows' not running: 0 pending>"
    async with batcher, running(batcher):
        await batcher.add(1)
        assert repr(batcher) == "<Batcher 'rows' running: 1 pending>"
    assert repr(batcher) == "<Batcher 'rows' closed: 0 pending>"


# What goes when


@virtual_time
async def test_a_full_batch_goes_at_once() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=3)
    async with running(batcher):
        for item in range(7):
            await batcher.add(item)
        await advance(0)
        assert sink.flushed == [[0, 1, 2], [3, 4, 5]]
        assert batcher.pending() == [6]


@virtual_time
async def test_a_short_batch_goes_an_interval_after_its_first_item() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=3, flush_interval=5.0)
    async with running(batcher):
        await advance(100)
        await batcher.add(1)
        await advance(4)
        await batcher.add(2)
        await advance(0.9)
        assert sink.flushed == []
        await advance(0.1)
        assert sink.flushed == [[1, 2]]


@virtual_time
async def test_the_interval_starts_anew_with_the_first_item_of_the_next_batch() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=2, flush_interval=5.0)
    async with running(batcher):
        await batcher.add(1)
        await advance(4)
        await batcher.add_many([2, 3])
        await advance(4.9)
        assert sink.flushed == [[1, 2]]
        await advance(0.1)
        assert sink.flushed == [[1, 2], [3]]


@virtual_time
async def test_an_interval_of_zero_gathers_what_comes_while_the_callback_is_busy() -> None:
    sink = Recorder(takes=1.0)
    batcher = Batcher(sink, flush_interval=0)
    async with running(batcher):
        for item in range(6):
            await batcher.add(item)
            await advance(0.3)
        await advance(2)
    assert sink.flushed == [[0], [1, 2, 3], [4, 5]]


@virtual_time
async def test_without_an_end_of_the_interval_only_full_batches_go() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=2, flush_interval=inf)
    async with running(batcher):
        await batcher.add_many([1, 2, 3])
        await advance(1e6)
        assert sink.flushed == [[1, 2]]


@virtual_time
@pytest.mark.parametrize("fast_acquire", [False, True])
@pytest.mark.parametrize("how", ["add", "add_many", "add_nowait"])
async def test_many_items_at_once_go_at_once_in_batches_that_are_none_over_the_maximum(
    how: str, fast_acquire: bool
) -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=100, fast_acquire=fast_acquire)
    async with running(batcher):
        if how == "add_many":
            await batcher.add_many(iter(range(1050)))
        for item in range(1050):
            if how == "add":
                await batcher.add(item)
            elif how == "add_nowait":
                batcher.add_nowait(item)
        await advance(0)
        assert [len(batch) for batch in sink.flushed] == [100] * 10
        await batcher.flush()
        assert len(sink.flushed[-1]) == 50
        assert sink.items == list(range(1050))


@virtual_time
async def test_a_batch_that_is_due_while_another_is_on_its_way_goes_on_filling() -> None:
    sink = Recorder(takes=20.0)
    batcher = Batcher(sink, max_batch_size=4, flush_interval=5.0)
    async with running(batcher):
        await batcher.add_many(range(4))
        for item in range(4, 8):
            await batcher.add(item)
            await advance(4)
        await advance(30)
    assert sink.flushed == [[0, 1, 2, 3], [4, 5, 6, 7]]


async def test_batches_of_one_go_one_by_one() -> None:
    sink = Recorder()
    async with create_task_group() as tg, Batcher(sink, max_batch_size=1) as batcher:
        await tg.start(batcher.run)
        await batcher.add_many([1, 2])
        await batcher.add(3)
    assert sink.flushed == [[1], [2], [3]]


async def test_no_items_make_no_batch() -> None:
    sink = Recorder()
    async with Batcher(sink) as batcher, running(batcher):
        await batcher.add_many([])
        await batcher.flush()
    assert sink.tried == []


@virtual_time
async def test_an_idle_batcher_does_not_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    next_deadline = Buffer.next_deadline

    def counted(buffer: Buffer[int, object]) -> float:
        nonlocal looks
        looks += 1
        return next_deadline(buffer)

    monkeypatch.setattr(Buffer, "next_deadline", counted)
    batcher = Batcher(noop, max_batch_size=2)
    async with running(batcher):
        await batcher.add(1)
        await batcher.add(2)
        await advance(20)  # a time once planned for may be looked at once
        looks = 0
        await advance(1e6)
        assert looks == 0


# Flushing by hand


async def test_flush_returns_when_all_that_was_added_before_is_flushed() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=2)
    async with running(batcher):
        await batcher.add_many(range(5))
        await batcher.flush()
        assert sink.flushed == [[0, 1], [2, 3], [4]]
        assert batcher.pending() == []


async def test_flush_without_force_leaves_the_batch_that_is_not_full() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=2)
    async with running(batcher):
        await batcher.add_many(range(3))
        await batcher.flush(force=False)
        assert sink.flushed == [[0, 1]]
        assert batcher.pending() == [2]
        await batcher.flush(force=False)
        assert sink.flushed == [[0, 1]]


async def test_flush_does_not_wait_for_what_is_added_later() -> None:
    batcher: Batcher[int]

    async def add_another(batch: list[int]) -> None:
        batcher.add_nowait(batch[0] + 1)

    batcher = Batcher(add_another, max_batch_size=1)
    async with running(batcher):
        batcher.add_nowait(1)
        await batcher.flush()
        assert batcher.stats.flushes >= 1


@virtual_time
async def test_flush_waits_for_the_batch_that_is_on_its_way() -> None:
    sink = Recorder(takes=3.0)
    batcher = Batcher(sink, max_batch_size=2)
    async with running(batcher):
        await batcher.add_many([1, 2])
        await advance(1)
        began = current_time()
        await batcher.flush()
        assert current_time() - began == 2.0
        assert sink.flushed == [[1, 2]]


@virtual_time
async def test_flush_raises_what_the_callback_raised() -> None:
    error = DownError("down")
    batcher = Batcher(Recorder(error))
    async with running(batcher):
        await batcher.add(1)
        with pytest.raises(DownError, match="down") as caught:
            await batcher.flush()
        assert caught.value is error
        assert batcher.pending() == [1]


@virtual_time
async def test_flush_raises_also_if_the_delivery_that_failed_was_another_ones() -> None:
    sink = Recorder(DownError("down"), takes=1.0)
    batcher = Batcher(sink, max_batch_size=2)
    failed: list[str] = []

    async def flush() -> None:
        try:
            await batcher.flush()
        except DownError as error:
            failed.append(str(error))

    async with running(batcher):
        await batcher.add_many([1, 2, 3])
        await advance(0.5)  # `run` is at it
        async with create_task_group() as tg:
            tg.start_soon(flush)
            tg.start_soon(flush)
        assert failed == ["down", "down"]
        assert len(sink.tried) == 1


@virtual_time
async def test_flush_of_a_batch_that_rests_waits_until_it_has_rested() -> None:
    sink = Recorder(DownError())
    batcher = Batcher(sink, retry=retry())
    async with running(batcher):
        await batcher.add(1)
        with pytest.raises(DownError):
            await batcher.flush()
        await batcher.add(2)
        await batcher.flush()
        assert sink.flushed == [[1], [2]]
        assert sink.delays()[0] == pytest.approx(FIRST_REST)


@virtual_time
async def test_flush_that_waits_for_a_rest_hears_of_it_if_others_have_tried() -> None:
    sink = Failing()
    batcher = Batcher(sink, retry=retry())
    async with create_task_group() as tg:
        async with batcher:
            await tg.start(batcher.run)
            await batcher.add(1)
            with pytest.raises(DownError):
                await batcher.flush()
            began = current_time()
            tg.start_soon(batcher.flush)
            await advance(0)
            sink.down = False
        assert sink.flushed == [[1]]
    assert current_time() == began


@virtual_time
async def test_flush_does_not_raise_for_a_batch_that_it_was_not_to_flush() -> None:
    tried: list[list[int]] = []

    async def flush(batch: list[int]) -> None:
        tried.append(batch)
        if len(tried) == 1:
            raise DownError("the first")
        await anyio.sleep(1)
        if batch == [3]:
            raise DownError("the third")

    batcher = Batcher(flush, max_batch_size=2, retry=retry())
    async with create_task_group() as tg:
        with pytest.raises(DownError, match="the third"):
            async with batcher:
                await tg.start(batcher.run)
                await batcher.add_many([1, 2])
                await advance(0)
                await batcher.add(3)
                tg.start_soon(partial(batcher.flush, force=False))
                await advance(FIRST_REST - 0.5)  # so it waits for the final flush
    assert tried == [[1, 2], [1, 2], [3]]
    assert batcher.pending() == [3]


async def test_flush_needs_no_run() -> None:
    sink = Recorder()
    batcher = Batcher(sink)
    async with running(batcher):
        await batcher.add(1)
    await batcher.flush()
    assert sink.flushed == [[1]]


@virtual_time
async def test_a_flush_that_is_cancelled_leaves_its_batch_in_front_to_go_at_once() -> None:
    sink = Recorder(takes=2.0)
    batcher = Batcher(sink)
    async with running(batcher):
        await batcher.add_many([1, 2])
        with move_on_after(1):
            await batcher.flush()
        await batcher.add(3)
        assert batcher.pending() == [1, 2, 3]
        await advance(2)
        assert sink.flushed == [[1, 2]]
        assert batcher.stats.failures == 0
        await batcher.flush()
    assert sink.items == [1, 2, 3]


async def test_the_list_is_the_callbacks_to_keep() -> None:
    async def spoil(batch: list[int]) -> None:
        batch.clear()
        raise DownError

    batcher = Batcher(spoil)
    async with running(batcher):
        await batcher.add_many([1, 2])
        with pytest.raises(DownError):
            await batcher.flush()
        assert batcher.pending() == [1, 2]


# What fails


@virtual_time
async def test_a_batch_that_failed_is_tried_again_as_it_was_after_the_backoff_and_not_sooner() -> (
    None
):
    sink = Recorder(DownError())
    batcher = Batcher(sink, max_batch_size=3, retry=retry())
    async with running(batcher):
        await batcher.add_many([1, 2, 3])
        await advance(0)
        await batcher.add_many([4, 5, 6, 7])
        await advance(FIRST_REST - 0.001)
        assert [batch for _, batch in sink.tried] == [[1, 2, 3]]
        await advance(0.001)
        assert sink.flushed == [[1, 2, 3], [4, 5, 6]]
        assert sink.delays()[0] == pytest.approx(FIRST_REST)


@virtual_time
async def test_a_short_batch_that_failed_stays_short() -> None:
    sink = Recorder(DownError())
    batcher = Batcher(sink, max_batch_size=3, flush_interval=1.0, retry=retry())
    async with running(batcher):
        await batcher.add(1)
        await advance(1)
        await batcher.add_many([2, 3])
        await advance(100)
    assert sink.flushed == [[1], [2, 3]]


@virtual_time
async def test_by_default_it_is_tried_for_ever() -> None:
    sink = Failing()
    batcher = Batcher(sink, max_batch_size=1)
    async with running(batcher):
        await batcher.add(1)
        await advance(3600)
        assert len(sink.tried) > 30
        sink.down = False
        await advance(60)
    assert sink.flushed == [[1]]


async def test_without_a_backoff_it_is_tried_again_at_once_and_others_get_their_turn() -> None:
    sink = Failing()
    batcher = Batcher(sink, max_batch_size=1, retry=Retry())
    async with running(batcher):
        await batcher.add(1)
        while len(sink.tried) < 10:
            await checkpoint()
        sink.down = False
        await batcher.flush()
    assert sink.flushed == [[1]]


async def test_failures_are_logged_with_the_batchers_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    batcher = Batcher(Recorder(DownError("down")), name="rows")
    async with running(batcher):
        await batcher.add_many([1, 2])
        with pytest.raises(DownError):
            await batcher.flush()
    [record] = caplog.records
    assert record.name == "leaseq"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "batcher 'rows': flushing 2 items failed at delivery 1, and they are kept and tried again"
    )
    assert record.exc_info is not None


async def test_it_logs_where_it_is_told_to(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("somebody.else")
    caplog.set_level(logging.DEBUG, logger="somebody.else")
    batcher = Batcher(Recorder(), logger=logger)
    async with running(batcher):
        await batcher.add(1)
        await batcher.flush()
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("somebody.else", "batcher '': flushed 1 items")
    ]


@virtual_time
async def test_a_batch_is_given_up_at_its_last_delivery_and_the_next_one_goes() -> None:
    sink = Failing()
    given_up: list[tuple[list[int], str]] = []

    async def give_up(batch: list[int], error: Exception) -> None:
        await checkpoint()
        given_up.append((batch, str(error)))
        sink.down = False

    batcher = Batcher(sink, max_batch_size=2, retry=retry(3), on_give_up=give_up)
    async with running(batcher):
        await batcher.add_many([1, 2, 3, 4])
        await advance(100)
        assert len(sink.tried) == 4
        assert given_up == [([1, 2], "down")]
        assert sink.flushed == [[3, 4]]
        assert batcher.pending() == []
        assert batcher.stats.given_up == 2
        assert batcher.stats.failures == 3


async def test_an_ordinary_function_may_take_what_is_given_up() -> None:
    given_up: list[list[int]] = []
    batcher = Batcher(
        Failing(), retry=Retry(1), on_give_up=lambda batch, error: given_up.append(batch)
    )
    async with running(batcher):
        await batcher.add(1)
        with pytest.raises(DownError):  # it was not flushed
            await batcher.flush()
    assert given_up == [[1]]
    assert batcher.pending() == []


@virtual_time
@pytest.mark.parametrize(
    ("policy", "seconds"), [(Retry(1, Backoff(base=8.0, ceiling=100.0)), 100.0), (Retry(1), 60.0)]
)
async def test_a_batch_that_nobody_takes_is_kept_and_offered_again(
    policy: Retry, seconds: float
) -> None:
    sink = Failing()
    offered: list[float] = []

    async def give_up(batch: list[int], error: Exception) -> None:
        offered.append(current_time())
        if len(offered) == 1:
            raise ValueError("no room here either")

    batcher = Batcher(sink, max_batch_size=1, retry=policy, on_give_up=give_up)
    async with running(batcher):
        await batcher.add(1)
        await advance(seconds - 1)
        assert batcher.pending() == [1]
        await advance(1)
        assert batcher.pending() == []
    assert offered[1] - offered[0] == seconds
    assert len(sink.tried) == 1


@asyncio_only
async def test_a_cancellation_of_something_that_the_callback_awaits_is_a_failure() -> None:
    async def await_another(batch: list[int]) -> None:
        task = asyncio.get_running_loop().create_future()
        task.cancel()
        await task

    batcher = Batcher(await_another, retry=Retry(backoff=Backoff(base=1000.0)))
    async with running(batcher):
        await batcher.add(1)
        with pytest.raises(LeaseqError, match="awaited something that was cancelled") as caught:
            await batcher.flush()
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert batcher.stats.running
        assert batcher.pending() == [1]


@asyncio_only
async def test_an_error_in_the_place_of_a_native_cancellation_ends_the_run() -> None:
    async def hide(batch: list[int]) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise OSError("connection closed") from None

    batcher = Batcher(hide, max_batch_size=1)
    task = asyncio.create_task(batcher.run())
    await batcher.add(1)
    await wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(OSError, match="connection closed"):
        await task
    assert batcher.pending() == [1]
    assert batcher.stats.failures == 0


@virtual_time
async def test_an_error_in_the_place_of_a_cancellation_by_a_scope_does_not() -> None:
    async def hide(batch: list[int]) -> None:
        try:
            await anyio.sleep(3600)
        finally:
            raise OSError("connection closed")

    batcher = Batcher(hide, max_batch_size=1)
    async with running(batcher):
        await batcher.add(1)
        await advance(1)
    assert batcher.pending() == [1]
    assert batcher.stats.failures == 1


async def test_a_callback_that_is_not_async_is_a_bug_and_ends_the_run() -> None:
    def flush(batch: list[int]) -> int:
        return len(batch)

    batcher = Batcher(flush, max_batch_size=1)  # type: ignore[arg-type]
    with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match=r"flush at .* returned 1: make it")):
        async with running(batcher):
            await batcher.add(1)
            await anyio.sleep_forever()
    assert batcher.pending() == [1]


async def test_such_a_bug_comes_out_at_the_end_too() -> None:
    batcher = Batcher(lambda batch: None, flush_interval=inf)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="on_flush must be an async function"):
        async with batcher, running(batcher):
            await batcher.add(1)
    assert batcher.pending() == [1]


# Room


@virtual_time
@pytest.mark.parametrize("fast_acquire", [False, True])
async def test_add_waits_for_room_in_order_of_arrival(fast_acquire: bool) -> None:
    sink = Recorder(takes=1.0)
    batcher = Batcher(sink, max_batch_size=2, max_pending=2, fast_acquire=fast_acquire)
    async with create_task_group() as tg, running(batcher):
        await batcher.add_many([0, 1])
        for item in range(2, 6):
            tg.start_soon(batcher.add, item)
            await advance(0)
        assert batcher.pending() == [0, 1]
        await advance(1)
        assert set(batcher.pending()) == {2, 3}  # trio runs both in either order
        await advance(10)
    assert [set(batch) for batch in sink.flushed] == [{0, 1}, {2, 3}, {4, 5}]


async def test_add_nowait_does_not_wait_for_room() -> None:
    batcher = Batcher(noop, max_pending=2)
    async with running(batcher):
        batcher.add_nowait(1)
        batcher.add_nowait(2)
        with pytest.raises(WouldBlock, match=r"Batcher.* has no room: it has max_pending=2"):
            batcher.add_nowait(3)
        await batcher.flush()
        batcher.add_nowait(3)
        assert batcher.pending() == [3]


async def test_add_nowait_does_not_pass_those_who_wait() -> None:
    batcher = Batcher(noop, max_pending=3)
    async with create_task_group() as tg, running(batcher):
        await batcher.add_many([1, 2])
        tg.start_soon(batcher.add_many, [3, 4])
        await wait_all_tasks_blocked()
        with pytest.raises(WouldBlock):
            batcher.add_nowait(5)
        await batcher.flush()
        await wait_all_tasks_blocked()
        assert batcher.pending() == [3, 4]


async def test_add_many_waits_for_room_for_all_and_adds_what_it_was_given_then() -> None:
    batcher = Batcher(noop, max_pending=3)
    items = [2, 3, 4]
    async with create_task_group() as tg, running(batcher):
        await batcher.add(1)
        tg.start_soon(batcher.add_many, items)
        await wait_all_tasks_blocked()
        items.append(5)
        assert batcher.pending() == [1]
        await batcher.flush()
        await wait_all_tasks_blocked()
        assert batcher.pending() == [2, 3, 4]


async def test_more_items_than_there_is_ever_room_for_are_refused() -> None:
    batcher = Batcher(noop, max_pending=3)
    async with running(batcher):
        with pytest.raises(ValueError, match=r"4 items never fit into .* max_pending=3: add"):
            await batcher.add_many(range(4))
        assert batcher.pending() == []


async def test_a_producer_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    batcher = Batcher(noop, max_pending=2)
    async with create_task_group() as tg, running(batcher):
        await batcher.add_many([1])
        with CancelScope() as scope:
            tg.start_soon(cancel_when_blocked, scope)
            await batcher.add_many([2, 3])
        batcher.add_nowait(4)
        assert batcher.pending() == [1, 4]


async def cancel_when_blocked(scope: CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_who_waits_for_room_when_it_is_closed_is_told() -> None:
    batcher = Batcher(noop, max_pending=1)
    told: list[type[Exception]] = []

    async def add() -> None:
        try:
            await batcher.add(2)
        except LeaseqError as error:
            told.append(type(error))

    async with create_task_group() as tg, running(batcher), batcher:
        await batcher.add(1)
        tg.start_soon(add)
        await wait_all_tasks_blocked()
    assert told == [QueueClosedError]
    assert batcher.pending() == []


async def test_who_waits_for_room_when_the_run_ends_is_told() -> None:
    batcher = Batcher(noop, max_pending=1)
    async with create_task_group() as tg:

        async def add() -> None:
            with pytest.raises(TimekeeperNotRunningError):
                await batcher.add(2)

        async with running(batcher):
            await batcher.add(1)
            tg.start_soon(add)
            await wait_all_tasks_blocked()
    assert batcher.pending() == [1]


async def test_who_waits_for_room_waits_on_if_the_run_starts_anew() -> None:
    batcher = Batcher(noop, max_pending=1)
    scope = CancelScope()

    async def run_twice() -> None:
        with scope:
            await batcher.run()
        await batcher.run()

    async with create_task_group() as tg:
        tg.start_soon(run_twice)
        await wait_all_tasks_blocked()
        await batcher.add(1)
        tg.start_soon(batcher.add, 2)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert batcher.pending() == [1]
        await batcher.flush()
        await wait_all_tasks_blocked()
        assert batcher.pending() == [2]
        tg.cancel_scope.cancel()


# The life of `run`


async def test_adding_without_a_run_teaches_what_to_write() -> None:
    batcher = Batcher(noop, name="rows")
    for add in (batcher.add, lambda item: batcher.add_many([item])):
        with pytest.raises(TimekeeperNotRunningError, match=r"await tg\.start\(batcher\.run\)"):
            await add(1)
    with pytest.raises(RuntimeError, match="<Batcher 'rows' not running: 0 pending> would never"):
        batcher.add_nowait(1)
    async with running(batcher):
        await batcher.add(1)
    with pytest.raises(TimekeeperNotRunningError):
        batcher.add_nowait(2)


@asyncio_only
@pytest.mark.parametrize("fast_acquire", [False, True])
async def test_a_run_that_was_just_made_a_task_is_enough(fast_acquire: bool) -> None:
    sink = Recorder()
    async with asyncio.TaskGroup() as tg, Batcher(sink, fast_acquire=fast_acquire) as batcher:
        tg.create_task(batcher.run())
        await batcher.add(1)
    assert sink.flushed == [[1]]


async def test_a_second_run_at_the_same_time_is_refused() -> None:
    batcher = Batcher(noop)
    async with running(batcher):
        with pytest.raises(BusyResourceError):
            await batcher.run()
        await batcher.add(1)


async def test_it_can_be_run_again() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=2)
    async with running(batcher):
        await batcher.add(1)
    async with running(batcher):
        await batcher.add(2)
        while batcher.pending():
            await checkpoint()
    assert sink.flushed == [[1, 2]]


@virtual_time
async def test_a_run_that_is_cancelled_leaves_its_batch_in_front() -> None:
    sink = Recorder(takes=5.0)
    batcher = Batcher(sink, max_batch_size=2)
    async with running(batcher):
        await batcher.add_many([1, 2, 3])
        await advance(1)
    assert batcher.pending() == [1, 2, 3]
    async with running(batcher):
        await advance(5)
        assert sink.flushed == [[1, 2]]


async def test_it_returns_when_the_batcher_is_closed() -> None:
    batcher = Batcher(noop)
    with fail_after(5):
        async with create_task_group() as tg, batcher:
            await tg.start(batcher.run)
        await batcher.run()
        async with create_task_group() as tg:
            await tg.start(batcher.run)
    assert not batcher.stats.running


@pytest.mark.parametrize("body_fails", [False, True])
@pytest.mark.parametrize("first", ["run", "enter"])
async def test_after_its_end_it_can_be_run_and_entered_again(first: str, body_fails: bool) -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=2)
    for number in range(3):
        async with create_task_group() as tg:
            if first == "run":
                await tg.start(batcher.run)
            with suppress(DownError):
                async with batcher:
                    if first == "enter":
                        await tg.start(batcher.run)
                    await batcher.add_many([number, number, number])
                    if body_fails:
                        raise DownError
        with pytest.raises(QueueClosedError):
            await batcher.add(9)
    assert sink.items == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (batcher.stats.items, batcher.stats.flushes) == (9, 6)


async def test_what_its_end_has_left_is_flushed_when_it_runs_again() -> None:
    sink = Failing()
    batcher = Batcher(sink, retry=Retry())
    with pytest.RaisesGroup(DownError):
        async with running(batcher), batcher:
            await batcher.add(1)
    assert batcher.pending() == [1]
    sink.down = False
    async with running(batcher), batcher:
        await batcher.add(2)
    assert sink.items == [1, 2]


async def test_entered_again_at_once_it_has_a_run_of_its_own() -> None:
    sink = Recorder()
    batcher = Batcher(sink)
    async with create_task_group() as tg:
        for number in range(5):
            async with batcher:
                await tg.start(batcher.run)
                await batcher.add(number)
    assert sink.items == [0, 1, 2, 3, 4]


# Callbacks that would wait for themselves


async def in_the_callback(act: Callable[[], Awaitable[object]]) -> None:
    await act()


async def in_a_task_of_the_callback(act: Callable[[], Awaitable[object]]) -> None:
    errors: list[Exception] = []

    async def task() -> None:
        try:
            await act()
        except RuntimeError as error:
            errors.append(error)

    async with create_task_group() as tg:
        tg.start_soon(task)
    for error in errors:
        raise error


async def in_a_thread_of_the_callback(act: Callable[[], Awaitable[object]]) -> None:
    await anyio.to_thread.run_sync(anyio.from_thread.run, act)


each_place = pytest.mark.parametrize(
    "place", [in_the_callback, in_a_task_of_the_callback, in_a_thread_of_the_callback]
)
Place = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


@each_place
@pytest.mark.parametrize("callback", ["on_flush", "on_give_up"])
@pytest.mark.parametrize("call", ["add", "add_many", "flush", "flush(force=False)", "leave"])
async def test_a_call_that_would_wait_for_its_own_callback_is_refused(
    place: Place, callback: str, call: str
) -> None:
    refusals: list[str] = []
    refused = Event()

    async def leave() -> None:
        async with batcher:
            pass

    async def act() -> None:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "add": lambda: batcher.add(3),
            "add_many": lambda: batcher.add_many([3, 4]),
            "flush": batcher.flush,
            "flush(force=False)": lambda: batcher.flush(force=False),
            "leave": leave,
        }
        try:
            await place(calls[call])
        except RuntimeError as error:
            refusals.append(str(error))
            refused.set()

    async def on_flush(batch: list[int]) -> None:
        if callback == "on_give_up":
            raise DownError
        await act()

    async def on_give_up(batch: list[int], error: Exception) -> None:
        await act()

    batcher = Batcher(
        on_flush, name="rows", max_batch_size=2, max_pending=2,
        retry=Retry(max_deliveries=1), on_give_up=on_give_up,
    )  # fmt: skip
    with fail_after(20):
        async with running(batcher):
            await batcher.add_many([1, 2])
            await refused.wait()
    assert "in a callback of the batcher 'rows' would wait for ever" in refusals[0]


async def test_a_callback_may_add_where_there_is_room() -> None:
    sink: list[list[int]] = []

    async def on_flush(batch: list[int]) -> None:
        sink.append(batch)
        if batch == [1, 2]:
            await batcher.add(3)
            await batcher.add_many([4])

    batcher = Batcher(on_flush, max_batch_size=2, max_pending=4)
    async with running(batcher), batcher:
        await batcher.add_many([1, 2])
        while len(sink) < 2:
            await checkpoint()
    assert sink == [[1, 2], [3, 4]]


async def test_a_task_that_a_callback_has_left_behind_may_wait_later() -> None:
    flushed: list[int] = []
    outer = create_task_group()
    returned = Event()

    async def produce() -> None:
        await returned.wait()
        for number in range(10, 20):
            await batcher.add(number)
        await batcher.flush()

    async def on_flush(batch: list[int]) -> None:
        if not flushed:
            outer.start_soon(produce)
        flushed.extend(batch)

    batcher = Batcher(on_flush, max_batch_size=2, max_pending=2)
    async with running(batcher), outer:
        await batcher.add_many([1, 2])
        while not batcher.stats.flushes:
            await checkpoint()
        returned.set()
    assert flushed == [1, 2, *range(10, 20)]


async def test_a_callback_may_use_another_batcher_but_not_wait_for_its_own_through_it() -> None:
    refused: list[str] = []

    async def on_inner(batch: list[int]) -> None:
        try:
            await outer.flush()
        except RuntimeError as error:
            refused.append(str(error))

    async def on_outer(batch: list[int]) -> None:
        await inner.add_many(batch)
        await inner.flush()

    inner, outer = Batcher(on_inner), Batcher(on_outer, name="outer")
    async with running(inner), running(outer):
        await outer.add(1)
        await outer.flush()
    assert [each.split(" would")[0] for each in refused] == [
        "flush() in a callback of the batcher 'outer'"
    ]
    assert inner.stats.items == outer.stats.items == 1


# Whatever can raise, raises


class Raises(Exception):  # noqa: N818 - it is raised everywhere
    """An error whose text raises, on every second occasion."""

    def __str__(self) -> str:
        if self.args[0] % 2:
            raise KeyError("no text")
        return "of a hook"

    __repr__ = __str__


class Mischief:
    """Decides at each call of a hook whether it raises."""

    def __init__(self, draws: list[int]) -> None:
        self._draws = iter(draws)

    def __call__(self) -> None:
        draw = next(self._draws, 0)
        if draw:
            raise Raises(draw)


@dataclass(frozen=True)
class MischievousBackoff(Backoff):
    mischief: Mischief = field(default_factory=lambda: Mischief([]))

    def delay(self, deliveries: int) -> float:
        self.mischief()
        return 1.0


class MischievousItem:
    """An item that can be held, and nothing else."""

    def _no(self, *_: object) -> Any:
        raise KeyError("of an item")

    __repr__ = __str__ = __eq__ = __hash__ = __bool__ = __lt__ = _no


draws = strategies.lists(strategies.integers(0, 2), max_size=12)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=150, deadline=None)
@given(
    flush=draws,
    give_up=draws,
    delay=draws,
    logs=draws,
    counts=strategies.lists(strategies.integers(1, 7), min_size=1, max_size=5),
    size=strategies.integers(1, 4),
    capacity=strategies.sampled_from([7, 9, inf]),
    most=strategies.sampled_from([None, 1, 2]),
)
def test_whatever_raises_each_item_is_flushed_given_up_or_pending(
    backend: Literal["asyncio", "trio"],
    flush: list[int],
    give_up: list[int],
    delay: list[int],
    logs: list[int],
    counts: list[int],
    size: int,
    capacity: float,
    most: int | None,
) -> None:
    flushing, giving_up = Mischief(flush), Mischief(give_up)
    flushed: list[object] = []
    given_up: list[object] = []

    async def on_flush(batch: list[object]) -> None:
        flushing()
        await checkpoint()
        flushing()
        flushed.extend(batch)

    async def on_give_up(batch: list[object], error: Exception) -> None:
        giving_up()
        await checkpoint()
        given_up.extend(batch)

    logger = logging.Logger("of the test")  # noqa: LOG001 - nobody else is to see its filter
    logger.addHandler(logging.NullHandler())
    mischief_of_logs = Mischief(logs)

    def log_filter(record: logging.LogRecord) -> bool:
        mischief_of_logs()
        return True

    logger.addFilter(log_filter)
    policy = MischievousBackoff(1.0, mischief=Mischief(delay))
    added: list[object] = []

    async def main() -> None:
        batcher: Batcher[object] = Batcher(
            on_flush, max_batch_size=size, max_pending=capacity, flush_interval=5.0, logger=logger,
            retry=Retry(most, policy), on_give_up=on_give_up,
        )  # fmt: skip
        with fail_after(1e6):
            async with create_task_group() as tg:
                await tg.start(batcher.run)
                with suppress(Raises):
                    async with batcher:
                        for count in counts:
                            many = [MischievousItem() for _ in range(count)]
                            await batcher.add_many(many)
                            added.extend(many)
                            try:
                                await batcher.flush()
                            except Raises:
                                await anyio.sleep(3)
        left = [*flushed, *given_up, *batcher.pending()]
        assert sorted(map(id, left)) == sorted(map(id, added))
        stats = batcher.stats
        assert (stats.items, stats.given_up) == (len(flushed), len(given_up))
        assert stats.queued == len(batcher.pending())

    raised, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        name, options = virtual_backend(backend)
        anyio.run(main, backend=name, backend_options=options)
    finally:
        logging.raiseExceptions = raised


def test_it_belongs_to_one_event_loop() -> None:
    batcher = Batcher(noop)

    async def use() -> None:
        async with running(batcher):
            await batcher.add(1)

    anyio.run(use)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="event loop that is over")):
        anyio.run(use)


async def test_another_thread_is_told_the_way_in() -> None:
    batcher = Batcher(noop)
    async with running(batcher):
        with pytest.raises(RuntimeError, match=r"anyio\.from_thread\.run_sync"):
            await anyio.to_thread.run_sync(batcher.add_nowait, 1)
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, batcher.add_nowait, 1)
        assert batcher.pending() == [1]


@virtual_time
async def test_statistics() -> None:
    sink = Recorder(DownError())
    batcher = Batcher(sink, max_batch_size=2, retry=retry())
    assert batcher.stats == BatcherStatistics(
        flushes=0,
        items=0,
        failures=0,
        given_up=0,
        queued=0,
        last_flush_time=None,
        running=False,
    )
    async with running(batcher):
        await batcher.add_many(range(5))
        await advance(FIRST_REST)
        then = current_time()
        await advance(1)
        assert batcher.stats == BatcherStatistics(
            flushes=2,
            items=4,
            failures=1,
            given_up=0,
            queued=1,
            last_flush_time=then,
            running=True,
        )


# The end


async def test_the_end_flushes_what_is_left() -> None:
    sink = Recorder()
    with fail_after(5):
        async with create_task_group() as tg, Batcher(sink, max_batch_size=2) as batcher:
            await tg.start(batcher.run)
            await batcher.add_many(range(5))
    assert sink.flushed == [[0, 1], [2, 3], [4]]


async def test_a_closed_batcher_takes_nothing_more() -> None:
    async with create_task_group() as tg:
        async with Batcher(noop) as batcher:
            await tg.start(batcher.run)
            await batcher.add(1)
        with pytest.raises(QueueClosedError, match="closed: 0 pending> accepts no more items"):
            await batcher.add(2)
        with pytest.raises(QueueClosedError):
            await batcher.add_many([2])
        with pytest.raises(QueueClosedError):
            batcher.add_nowait(2)


@virtual_time
async def test_the_final_flush_tries_each_batch_once_and_raises_the_first_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Recorder(DownError("first"), DownError("second"))
    batcher = Batcher(sink, max_batch_size=2, flush_interval=inf, name="rows")
    with pytest.raises(DownError, match="first") as caught:
        async with batcher, running(batcher):
            await batcher.add_many([1, 2, 3, 4, 5])
    assert [batch for _, batch in sink.tried] == [[1, 2], [3, 4], [5]]
    assert batcher.pending() == [1, 2, 3, 4]
    assert caught.value.__notes__ == [
        "the final flush of <Batcher 'rows' closed: 4 pending> failed, "
        "with 4 items left in pending()"
    ]
    assert (
        caplog.messages[-1]
        == "<Batcher 'rows' closed: 4 pending> is left with items: see pending()"
    )


@virtual_time
async def test_the_final_flush_does_not_wait_for_a_batch_to_rest() -> None:
    sink = Failing()
    batcher = Batcher(sink)
    async with create_task_group() as tg, batcher:
        await tg.start(batcher.run)
        await batcher.add(1)
        with pytest.raises(DownError):
            await batcher.flush()
        sink.down = False
        began = current_time()
    assert current_time() == began
    assert sink.flushed == [[1]]


@virtual_time
async def test_what_is_left_by_a_final_flush_that_failed_can_be_flushed_later() -> None:
    sink = Recorder(DownError())
    batcher = Batcher(sink)
    with pytest.raises(DownError):
        async with batcher, running(batcher):
            await batcher.add(1)
    await batcher.flush()
    assert sink.flushed == [[1]]


@virtual_time
async def test_an_error_of_the_body_goes_on_with_a_note_if_the_final_flush_failed_too() -> None:
    batcher = Batcher(Failing(), name="rows")
    with pytest.raises(KeyError, match="the body's") as caught:
        async with batcher:
            async with running(batcher):
                await batcher.add(1)
            raise KeyError("the body's")
    assert caught.value.__notes__ == [
        "the final flush of <Batcher 'rows' closed: 1 pending> failed, "
        "with 1 items left in pending(): DownError('down')"
    ]


async def test_an_error_of_the_body_does_not_keep_what_is_left_from_being_flushed() -> None:
    sink = Recorder()
    batcher = Batcher(sink)
    with pytest.raises(KeyError) as caught:
        async with batcher:
            async with running(batcher):
                await batcher.add(1)
            raise KeyError
    assert sink.flushed == [[1]]
    assert not hasattr(caught.value, "__notes__")


@virtual_time
async def test_a_batcher_that_is_cancelled_flushes_what_is_left_shielded() -> None:
    sink = Recorder(takes=1.0)
    with move_on_after(3) as scope:
        async with create_task_group() as tg, Batcher(sink, max_batch_size=2) as batcher:
            await tg.start(batcher.run)
            await batcher.add(1)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert sink.flushed == [[1]]


@virtual_time
async def test_the_final_flush_of_a_batcher_that_is_cancelled_has_so_much_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Recorder(takes=2.0)
    batcher = Batcher(sink, max_batch_size=2, flush_interval=inf, shutdown_timeout=5.0)
    began = current_time()
    with move_on_after(1) as scope:
        async with create_task_group() as tg, batcher:
            await tg.start(batcher.run)
            await batcher.add_many(range(7))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert current_time() - began == 6.0
    assert sink.flushed == [[0, 1], [2, 3]]
    assert batcher.pending() == [4, 5, 6]
    assert "is left with items" in caplog.messages[-1]


@virtual_time
async def test_a_final_flush_that_is_cancelled_goes_on_shielded_for_so_long() -> None:
    sink = Recorder(takes=2.0)
    batcher = Batcher(sink, max_batch_size=2, flush_interval=inf, shutdown_timeout=5.0)
    began = current_time()
    with move_on_after(3) as scope:
        async with batcher, running(batcher):
            await batcher.add_many(range(8))
    assert scope.cancelled_caught
    assert current_time() - began == 8.0  # the second batch was begun anew
    assert sink.flushed == [[0, 1], [2, 3], [4, 5]]
    assert batcher.pending() == [6, 7]


@virtual_time
@pytest.mark.parametrize("when", ["in the body", "in the final flush"])
async def test_a_final_flush_that_fails_raises_in_the_place_of_a_cancellation(when: str) -> None:
    sink = Recorder(DownError("down"), takes=1.0)
    batcher = Batcher(sink, max_batch_size=1, flush_interval=inf)
    with pytest.raises(DownError, match="down"), move_on_after(1.5):
        async with batcher:
            async with running(batcher):
                await batcher.add_many([1, 2])
            if when == "in the body":
                await anyio.sleep_forever()
    assert sink.flushed == [[2]]
    assert batcher.pending() == [1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("when", ["in the body", "in the final flush"])
def test_what_ends_the_program_goes_on_and_leaves_nothing(
    stop: type[BaseException], when: str
) -> None:
    sink = Recorder(DownError("down"))
    batcher = Batcher(sink, max_batch_size=1, flush_interval=inf)
    calls: list[list[int]] = []

    async def flush(batch: list[int]) -> None:
        calls.append(batch)
        if batch == [2] and len(calls) == 2 and when == "in the final flush":
            raise stop
        await sink(batch)

    batcher = Batcher(flush, max_batch_size=1, flush_interval=inf)

    async def main() -> None:
        async with running(batcher):
            await batcher.add_many([1, 2])
            await checkpoint()
        with pytest.raises(stop):
            async with batcher:
                if when == "in the body":
                    raise stop

    anyio.run(main)
    assert sink.flushed == [[2]]
    assert batcher.pending() == [1]


@virtual_time
@pytest.mark.only("trio")
async def test_a_cancellation_that_a_nursery_has_put_in_a_group_is_one() -> None:
    import trio

    async def stopped() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            raise BaseExceptionGroup("", [error]) from None

    sink = Recorder(takes=1.0)
    batcher = Batcher(sink)
    async with running(batcher):
        await batcher.add(1)
    with trio.move_on_after(0.5) as scope:
        async with batcher:
            await stopped()
    assert scope.cancelled_caught
    assert sink.flushed == [[1]]

    batcher = Batcher(Failing())
    async with running(batcher):
        await batcher.add(1)
    with pytest.raises(DownError, match="down"), trio.move_on_after(0.5):
        async with batcher:
            await stopped()


@asyncio_only
@virtual_time
async def test_a_native_cancellation_gives_the_final_flush_so_much_time_too() -> None:
    sink = Recorder(takes=2.0)
    batcher = Batcher(sink, max_batch_size=1, flush_interval=inf, shutdown_timeout=5.0)

    async def main() -> None:
        async with asyncio.TaskGroup() as tg, batcher:
            tg.create_task(batcher.run())
            await batcher.add_many(range(4))
            await asyncio.sleep(3600)

    task = asyncio.create_task(main())
    await advance(1)
    began = current_time()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert sink.items + batcher.pending() == [0, 1, 2, 3]
    assert current_time() - began == 5.0


@asyncio_only
@virtual_time
async def test_a_second_native_cancellation_ends_the_final_flush_and_nothing_is_gone() -> None:
    sink = Recorder(takes=2.0)
    batcher = Batcher(sink, max_batch_size=2, flush_interval=inf)

    async def main() -> None:
        async with asyncio.TaskGroup() as tg, batcher:
            tg.create_task(batcher.run())
            await batcher.add_many(range(5))
            await asyncio.sleep(3600)

    task = asyncio.create_task(main())
    await advance(1)
    task.cancel()
    await advance(2.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert sink.items == [0, 1]
    assert batcher.pending() == [2, 3, 4]


# The cancel sweep


class Steps(Recorder):
    """A callback of some steps: what it is cancelled in has not happened."""

    async def __call__(self, batch: list[int]) -> None:
        for _ in range(3):
            await checkpoint()
        if self._errors:
            raise self._errors.pop(0)
        self.flushed.append(batch)


class Account:
    """What was added to a batcher, and what has become of it."""

    def __init__(self, *errors: Exception, max_deliveries: int | None = None, **options: Any):
        self.added: list[int] = []
        self.given_up: list[int] = []
        self.sink = Steps(*errors)
        self.batcher: Batcher[int] = Batcher(
            self.sink,
            max_batch_size=2,
            retry=Retry(max_deliveries),
            on_give_up=None if max_deliveries is None else self.give_up,
            **options,
        )

    async def give_up(self, batch: list[int], error: Exception) -> None:
        await checkpoint()
        self.given_up += batch

    async def add(self, *items: int) -> None:
        for item in items:
            await self.batcher.add(item)
            self.added.append(item)

    async def produce(self) -> None:
        with suppress(LeaseqError):
            await self.add(1, 2, 3)
            await self.batcher.add_many([4, 5, 6])
            self.added += [4, 5, 6]

    def check(self) -> None:
        pending = self.batcher.pending()
        assert sorted(self.sink.items + self.given_up + pending) == sorted(self.added)
        assert self.sink.items == [item for item in self.added if item in self.sink.items]
        assert pending == [item for item in self.added if item in pending]
        assert all(len(batch) <= 2 for batch in self.sink.flushed)
        assert self.batcher._buffer._reserved == 0


Scene = Callable[[Account], AbstractAsyncContextManager[Operation]]


@asynccontextmanager
async def adding(account: Account) -> AsyncIterator[Operation]:
    """A producer waits for room, another one behind it."""
    with suppress(DownError):
        async with account.batcher, running(account.batcher):
            await account.add(1, 2)
            async with create_task_group() as tg:

                async def behind() -> None:
                    await checkpoint()
                    await checkpoint()
                    await account.add(4)

                tg.start_soon(behind)
                yield lambda: account.add(3)


@asynccontextmanager
async def flushing(account: Account) -> AsyncIterator[Operation]:
    """One flushes while others add, and while `run` flushes too."""

    async def flush() -> None:
        with suppress(DownError):
            await account.batcher.flush()

    with suppress(DownError):
        async with account.batcher, running(account.batcher):
            await account.add(1, 2, 3)
            async with create_task_group() as tg:
                tg.start_soon(account.add, 4)
                yield flush


@asynccontextmanager
async def being_run(account: Account) -> AsyncIterator[Operation]:
    """`run` ends while others add; then the batcher is left."""

    async def use() -> None:
        with suppress(DownError):
            async with account.batcher:
                while not account.batcher.stats.running and patience:
                    patience.pop()
                    await checkpoint()
                await account.produce()

    patience = list(range(20))
    async with create_task_group() as tg:
        tg.start_soon(use)
        yield account.batcher.run


@asynccontextmanager
async def in_a_nursery(account: Account) -> AsyncIterator[Operation]:
    """All of it: a group, a batcher in it, its run, and a producer."""

    async def use() -> None:
        async with create_task_group() as tg:
            with suppress(DownError):
                async with account.batcher as batcher:
                    await tg.start(batcher.run)
                    await account.produce()
                    with suppress(DownError):
                        await batcher.flush()
                    await account.add(7)

    yield use


SCENES: dict[Scene, int] = {adding: 2, flushing: 5, being_run: 5, in_a_nursery: 5}
"""What is done, and how many items may be pending meanwhile."""

OPTIONS: dict[str, dict[str, Any]] = {
    "well": {},
    "failing once": {"errors": 1},
    "giving up": {"errors": 3, "max_deliveries": 2},
}


def account(scene: Scene, errors: int = 0, **options: Any) -> Account:
    return Account(*[DownError("down")] * errors, max_pending=SCENES[scene], **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("scene", SCENES)
async def test_an_item_is_flushed_once_or_given_up_or_pending_whoever_is_cancelled(
    scene: Scene, options: dict[str, Any], native: bool
) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        books = account(scene, **options)
        async with scene(books) as operation:
            yield operation
        books.check()
        if options is OPTIONS["well"]:
            assert books.batcher.pending() == []  # the shield held

    assert await cancel_sweep(scenario, native=native) > 5


@asyncio_only
async def test_nor_if_it_is_cancelled_natively_twice() -> None:
    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        books = Account()

        async def use() -> None:
            task = asyncio.current_task()
            assert task is not None
            async with asyncio.TaskGroup() as tg, books.batcher as batcher:
                tg.create_task(batcher.run())
                await books.add(1, 2, 3)
                task.cancel()
                await checkpoint()

        yield use
        books.check()

    assert await cancel_sweep(scenario, native=True) > 5


@pytest.mark.parametrize("scene", [flushing, being_run, in_a_nursery])
async def test_the_sweep_finds_a_batcher_that_forgets_what_is_on_its_way(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Flusher._attempt

    async def forgetful(flusher: Flusher[int], batch: Any) -> Exception | None:
        items = batch.items
        batch.items = []
        flusher._buffer._taken_items -= len(items)
        error = await attempt(flusher, type(batch)(batch.start, items))
        batch.items = items
        flusher._buffer._taken_items += len(items)
        return error

    monkeypatch.setattr(Flusher, "_attempt", forgetful)

    @asynccontextmanager
    async def scenario() -> AsyncIterator[Operation]:
        books = account(scene)
        async with scene(books) as operation:
            yield operation
        books.check()

    with pytest.raises(AssertionError):
        await cancel_sweep(scenario)


# Beside beque


def beque(on_flush: Callable[[list[int]], Awaitable[None]], **options: Any) -> Beque[int]:
    quiet = logging.getLogger("beque under test")
    quiet.disabled = True
    return Beque(on_flush=on_flush, logger=quiet, **options)


class OnceCancelled(Recorder):
    """Awaits something that is cancelled under its hands, the first time."""

    async def __call__(self, batch: list[int]) -> None:
        if not self.tried:
            self.tried.append((current_time(), batch))
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other
        await super().__call__(batch)


@asyncio_only
@virtual_time
async def test_beque_loses_the_batch_of_a_flush_that_is_cancelled() -> None:
    sink = Recorder(takes=2.0)
    async with beque(sink, max_batch_size=10) as queue:
        await queue.add_many([1, 2, 3])
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await queue.flush()
        assert queue.stats["queued"] == 0
    assert sink.flushed == []


@asyncio_only
@virtual_time
async def test_leaseq_does_not() -> None:
    sink = Recorder(takes=2.0)
    async with create_task_group() as tg, Batcher(sink, max_batch_size=10) as batcher:
        await tg.start(batcher.run)
        await batcher.add_many([1, 2, 3])
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await batcher.flush()
        assert batcher.stats.queued == 3
    assert sink.flushed == [[1, 2, 3]]


@asyncio_only
@virtual_time
async def test_a_cancelled_flush_kills_beques_loop_for_good_and_loses_its_batch() -> None:
    sink = OnceCancelled()
    queue = beque(sink, max_batch_size=2, flush_interval=1.0)
    await queue.start()
    await queue.add_many([1, 2])
    await advance(0)
    assert queue._task is not None
    assert queue._task.cancelled()
    assert queue.stats["running"]  # so it says
    assert queue.stats["queued"] == 0
    await queue.add_many([3, 4])
    await advance(3600)
    assert sink.flushed == []
    assert queue.stats["queued"] == 2
    with suppress(asyncio.CancelledError):
        await queue.stop()
    assert queue.stats["queued"] == 2  # nor is there a final flush


@asyncio_only
@virtual_time
async def test_it_neither_kills_the_run_of_leaseq_nor_loses_anything() -> None:
    sink = OnceCancelled()
    batcher = Batcher(sink, max_batch_size=2, flush_interval=1.0)
    async with create_task_group() as tg, batcher:
        await tg.start(batcher.run)
        await batcher.add_many([1, 2])
        await advance(0)
        assert batcher.stats.running
        assert batcher.stats.queued == 2
        await batcher.add_many([3, 4])
        await advance(3600)
        assert sink.flushed == [[1, 2], [3, 4]]


async def flush_from_two_tasks(queue: Beque[int] | Batcher[int]) -> None:
    """The first flush fails while the second one waits for it."""

    async def flush(*items: int) -> None:
        await queue.add_many(list(items))
        with suppress(DownError):
            await queue.flush()

    async with create_task_group() as tg:
        tg.start_soon(flush, 1, 2)
        await advance(0.5)
        tg.start_soon(flush, 3, 4)
    await queue.flush()


@asyncio_only
@virtual_time
async def test_beque_reorders_what_two_tasks_flush_if_one_fails() -> None:
    sink = Recorder(DownError(), takes=1.0)
    async with beque(sink, max_batch_size=10) as queue:
        await flush_from_two_tasks(queue)
    assert sink.items == [3, 4, 1, 2]


@asyncio_only
@virtual_time
async def test_leaseq_keeps_the_order() -> None:
    sink = Recorder(DownError(), takes=1.0)
    async with create_task_group() as tg, Batcher(sink, max_batch_size=10) as batcher:
        await tg.start(batcher.run)
        await flush_from_two_tasks(batcher)
    assert sink.items == [1, 2, 3, 4]


@asyncio_only
@virtual_time
async def test_of_1000_items_at_once_900_wait_in_beque_and_come_in_one_batch_over_the_maximum() -> (
    None
):
    sink = Recorder()
    async with beque(sink, max_batch_size=100, flush_interval=10.0) as queue:
        await queue.add_many(list(range(1000)))
        await advance(9.9)
        assert [len(batch) for batch in sink.flushed] == [100]
        await advance(0.2)
        assert [len(batch) for batch in sink.flushed] == [100, 900]


@asyncio_only
@virtual_time
async def test_in_leaseq_they_go_at_once_in_batches_of_100() -> None:
    sink = Recorder()
    batcher = Batcher(sink, max_batch_size=100, flush_interval=10.0)
    async with create_task_group() as tg, batcher:
        await tg.start(batcher.run)
        await batcher.add_many(list(range(1000)))
        await advance(0)
        assert [len(batch) for batch in sink.flushed] == [100] * 10


@asyncio_only
async def test_an_idle_beque_looks_as_often_as_the_event_loop_lets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1.0
    looks = 0
    look = Beque._flush_if_needed

    async def counted(queue: Beque[int], *, force: bool) -> None:
        nonlocal looks
        looks += 1
        await look(queue, force=force)

    monkeypatch.setattr("beque.beque.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Beque, "_flush_if_needed", counted)
    async with beque(noop, flush_interval=10.0):
        now += 10.0  # an interval without an item
        for _ in range(100):
            await checkpoint()
        assert looks > 10


@asyncio_only
@virtual_time
async def test_a_final_flush_of_beque_that_fails_leaves_the_items_behind_without_an_error() -> None:
    async with beque(Failing()) as queue:
        await queue.add_many([1, 2, 3])
    assert queue.stats["queued"] == 3


@asyncio_only
@virtual_time
async def test_one_of_leaseq_raises_and_says_what_is_left() -> None:
    batcher = Batcher(Failing())
    async with create_task_group() as tg:
        with pytest.raises(DownError, match="down"):
            async with batcher:
                await tg.start(batcher.run)
                await batcher.add_many([1, 2, 3])
    assert batcher.pending() == [1, 2, 3]
