"""`cancel`: the item of a key is neither done nor tried again, whatever state it is in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
from anyio import (
    CancelScope,
    create_task_group,
    fail_after,
    get_cancelled_exc_class,
    sleep_forever,
)
from anyio.lowlevel import checkpoint
from tests.contract.helpers import (
    TIMEOUT,
    Engine,
    Handles,
    Queue,
    Start,
    Waiting,
    each_way,
    in_line,
    lease_of,
    others_run,
    settle,
    sweep,
    until,
)

from leaseq import (
    InvalidLeaseError,
    KeyAlreadyInFlightError,
    Lease,
    LeaseCancelledError,
    LeaseLostError,
    PutOutcome,
    QueueClosedError,
    Retry,
    Tenant,
    TransactionError,
    serve,
    serve_batches,
)
from leaseq.testing import Operation, Scenario

pytestmark = pytest.mark.anyio

each_end = pytest.mark.parametrize("how", ["ack", "release", "reject", "fail", "give back"])


async def is_free(queue: Queue, key: str) -> None:
    """Check that a key has nothing, and can be used again."""
    assert await queue.state(key) == "absent"
    assert await queue.put(key, "again") is PutOutcome.ADDED
    assert await queue.peek(key) == "again"


async def hold_on(lease: Lease[str, object]) -> None:
    """Keep the key of a cancelled lease, as a pool does while a thread works on it."""
    holding = lease.queue._hold_on(lease, TIMEOUT)
    if holding is not None:
        await holding


# What waits


@pytest.mark.parametrize("delay", [0, 60])
async def test_a_waiting_item_is_cancelled(queue: Queue, delay: int) -> None:
    await queue.put("a", 1, delay=delay)
    await queue.put("b", 1, delay=delay)
    assert await queue.cancel("a", reason="not needed") is True
    assert await queue.state("a") == "absent"
    assert await queue.qsize() == 1


async def test_an_absent_key_has_nothing_to_cancel(queue: Queue) -> None:
    assert await queue.cancel("a") is False
    await queue.put("a", 1)
    assert [await queue.cancel("a"), await queue.cancel("a")] == [True, False]


async def test_a_cancelled_item_that_waited_is_counted_as_one(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    await queue.cancel("a")
    counts = await queue.statistics()
    assert (counts.put, counts.ready, counts.cancelled, counts.dropped) == (2, 1, 1, 0)


async def test_a_cancelled_item_is_no_dead_letter(pages: Queue, letters: Queue) -> None:
    await pages.put("a", 1, ttl=60)
    await pages.cancel("a")
    lease = await lease_of(pages, "b", 1)
    await pages.cancel("b")
    with pytest.raises(LeaseCancelledError):
        await lease.reject("no good")
    assert await letters.qsize() == 0


async def test_a_waiting_producer_gets_the_room_of_what_is_cancelled(start: Start) -> None:
    full = await start(max_size=1)
    await full.put("a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, full)
        await waiting.put("b")
        await full.cancel("a")
        await until(full, putters=0)
    assert await full.available_keys() == {"b"}


async def test_a_join_ends_when_the_last_item_is_cancelled(queue: Queue) -> None:
    await queue.put("a", 1)
    async with create_task_group() as tg:
        tg.start_soon(queue.join)
        await others_run()
        await queue.cancel("a")


# What is leased


async def test_a_cancelled_body_hears_it_with_the_reason(queue: Queue) -> None:
    async with create_task_group() as tg:
        await queue.put("a", 1)
        with pytest.raises(LeaseCancelledError) as caught:
            async with queue.lease() as lease:
                tg.start_soon(lambda: queue.cancel("a", reason="the user left"))
                await sleep_forever()
    assert caught.value.reason == "the user left"
    assert isinstance(caught.value, LeaseLostError)
    assert str(caught.value) == (
        f"<Lease 'a' token={lease.token} cancelled> was cancelled while its body ran: "
        "'the user left'. Its item is not tried again"
    )
    assert lease.ended == "cancelled"
    await is_free(queue, "a")


async def test_a_key_is_not_free_before_the_clean_up_of_its_body_has_ended(queue: Queue) -> None:
    seen: list[object] = []
    await queue.put("a", 1)
    async with create_task_group() as tg:
        with pytest.raises(LeaseCancelledError):
            async with queue.lease():
                tg.start_soon(queue.cancel, "a")
                try:
                    await sleep_forever()
                finally:
                    with CancelScope(shield=True):
                        seen.append(await queue.state("a"))
                        seen.append(await queue.put("a", 2))
                        seen.append(await queue.available_keys())
                        await others_run()
                        seen.append(await queue.available_keys())
    assert seen == ["leased", PutOutcome.BUFFERED, set(), set()]
    assert await queue.peek("a") == 2


async def test_the_own_error_of_a_cancelled_body_goes_on(queue: Queue) -> None:
    await queue.put("a", 1)
    async with create_task_group() as tg:
        with pytest.raises(KeyError):
            async with queue.lease():
                tg.start_soon(queue.cancel, "a")
                try:
                    await sleep_forever()
                except get_cancelled_exc_class():
                    raise KeyError from None
    await is_free(queue, "a")


async def test_a_body_that_ends_by_itself_hears_of_a_cancellation_all_the_same(
    queue: Queue,
) -> None:
    await queue.put("a", 1)
    with pytest.raises(LeaseCancelledError):
        async with queue.lease():
            assert await queue.cancel("a") is True
    await is_free(queue, "a")


@each_end
async def test_settling_a_cancelled_lease_is_refused_and_frees_its_key(
    queue: Queue, how: str
) -> None:
    lease = await lease_of(queue, "a", 1)
    assert await queue.cancel("a", reason="late") is True
    assert await queue.state("a") == "leased"
    with pytest.raises(LeaseCancelledError, match="late") as caught:
        await settle(lease, how)
    assert caught.value.reason == "late"
    await is_free(queue, "a")
    with pytest.raises(LeaseCancelledError):
        await settle(lease, how)
    assert await queue.peek("a") == "again"


async def test_a_settlement_with_bad_arguments_frees_nothing(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    with pytest.raises(ValueError, match="delay"):
        await lease.release(delay=-1)
    with pytest.raises(TypeError, match="reason"):
        await lease.reject(1)  # type: ignore[arg-type]
    assert await queue.state("a") == "leased"
    with pytest.raises(LeaseCancelledError):
        await lease.release()
    await is_free(queue, "a")


async def test_extending_a_cancelled_lease_is_refused_and_frees_nothing(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    with pytest.raises(LeaseCancelledError):
        await lease.extend(None)
    assert await queue.state("a") == "leased"


async def test_entering_a_cancelled_lease_is_refused_and_frees_its_key(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    with pytest.raises(InvalidLeaseError):  # an engine may hear of it later
        async with lease:
            await sleep_forever()
    await is_free(queue, "a")


@pytest.mark.needs("advance")
async def test_a_key_is_free_when_the_time_of_its_cancelled_lease_is_over(
    engine: Engine, start: Start
) -> None:
    queue = await start()
    await queue.put("a", 1)
    _, _, lease = await queue.get(lease_timeout=TIMEOUT)
    await queue.cancel("a")
    await engine.advance(TIMEOUT / 2)
    assert await queue.state("a") == "leased"
    await engine.advance(TIMEOUT)
    counts = await queue.statistics()
    assert (counts.ready, counts.expired, counts.cancelled) == (0, 0, 1)
    with pytest.raises(LeaseLostError):
        await lease.ack()
    await is_free(queue, "a")


@pytest.mark.needs("advance")
async def test_a_holder_that_cannot_be_stopped_holds_on_to_the_key_of_its_cancelled_item(
    engine: Engine, start: Start
) -> None:
    queue = await start()
    await queue.put("a", 1)
    _, _, lease = await queue.get(lease_timeout=TIMEOUT)
    await queue.cancel("a", reason="late")
    for _ in range(3):
        with pytest.raises(LeaseCancelledError, match="late"):
            await lease.extend(TIMEOUT)
        await hold_on(lease)
        await engine.advance(TIMEOUT / 2)
    assert await queue.state("a") == "leased"
    await engine.advance(TIMEOUT)
    counts = await queue.statistics()
    assert (counts.leased, counts.cancelled, counts.expired) == (0, 1, 0)
    await is_free(queue, "a")
    await hold_on(lease)  # too late
    assert await queue.peek("a") == "again"


async def test_a_cancelled_item_is_not_tried_again_whatever_the_retry_policy(start: Start) -> None:
    queue = await start(retry=Retry(max_deliveries=5))
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    with pytest.raises(LeaseCancelledError):
        await lease.release()
    assert await in_line(queue) == []


async def test_a_cancelled_lease_is_counted_once_its_holder_has_ended(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    counts = await queue.statistics()
    assert (counts.leased, counts.cancelled) == (1, 0)
    with pytest.raises(LeaseCancelledError):
        await lease.ack()
    counts = await queue.statistics()
    assert (counts.leased, counts.cancelled, counts.acked, counts.delivered) == (0, 1, 0, 1)
    assert (counts.given_back, counts.released, counts.put) == (0, 0, 1)


async def test_a_cancelled_lease_is_in_flight_until_its_holder_has_ended(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await lease_of(queue, "b", 1)
    await queue.cancel("a")
    assert {one.key: one.cancelled for one in await queue.inflight()} == {"a": True, "b": False}
    with pytest.raises(LeaseCancelledError):
        await lease.ack()
    assert [one.key for one in await queue.inflight()] == ["b"]


async def test_the_history_tells_what_was_cancelled_from_what_was_done(start: Start) -> None:
    queue = await start(history=5)
    for key in "abc":
        lease = await lease_of(queue, key, 1)
        if key == "b":
            await queue.cancel(key)
            with pytest.raises(LeaseCancelledError):
                await lease.ack()
        else:
            await lease.ack()
    await queue.put("d", 1)
    await queue.cancel("d")  # never leased: nothing happened
    history = await queue.history()
    assert [(entry.key, entry.ended) for entry in history] == [
        ("a", "acked"),
        ("b", "cancelled"),
        ("c", "acked"),
    ]


async def test_cancelling_twice_cancels_once(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    assert [await queue.cancel("a", reason="first"), await queue.cancel("a")] == [True, False]
    with pytest.raises(LeaseCancelledError, match="first"):
        await lease.ack()


async def test_a_join_waits_for_the_clean_up(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    joined = False

    async def join() -> None:
        nonlocal joined
        await queue.join()
        joined = True

    async with create_task_group() as tg:
        tg.start_soon(join)
        await others_run()
        assert not joined
        with pytest.raises(LeaseCancelledError):
            await lease.ack()


async def test_a_tenant_comes_under_its_cap_when_the_clean_up_has_ended(start: Start) -> None:
    queue = await start(tenants={"x": Tenant(max_in_flight=1)})
    await queue.put_many([("x1", 1), ("x2", 2)], tenant="x")
    _, _, lease = await queue.get(lease_timeout=None)
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.get("next", lease_timeout=None)
        await queue.cancel("x1")
        await others_run()
        assert waiting.got == {}
        with pytest.raises(LeaseCancelledError):
            await lease.ack()
        await until(queue, getters=0)
    assert waiting.got == {"next": "x2"}


async def test_a_consumer_of_the_key_waits_for_the_next_item_of_it(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    async with create_task_group() as tg:
        waiting = Waiting(tg, queue)
        await waiting.take("taker", "a")
        await queue.cancel("a")
        await queue.put("a", 2)
        with pytest.raises(LeaseCancelledError):
            await lease.ack()
        await until(queue, takers=0)
    assert waiting.got == {"taker": "a"}


async def test_a_cancellation_that_goes_along_with_the_claim_is_heard(queue: Queue) -> None:
    async def work() -> None:
        with suppress(TimeoutError, LeaseCancelledError):  # it may come before the claim
            async with queue.lease(0):
                await sleep_forever()

    await queue.put("a", 1)
    with fail_after(60):
        async with create_task_group() as tg:
            tg.start_soon(work)
            tg.start_soon(queue.cancel, "a")
    await is_free(queue, "a")


# Successors


async def test_a_buffered_successor_is_cancelled_too(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.put("a", 2, if_in_flight="buffer")
    assert await queue.cancel("a") is True
    assert (await queue.statistics()).cancelled == 1
    with pytest.raises(LeaseCancelledError):
        await lease.ack()
    assert await queue.state("a") == "absent"
    counts = await queue.statistics()
    assert (counts.cancelled, counts.put, counts.buffered, counts.superseded) == (2, 2, 0, 0)


async def test_a_buffered_successor_can_be_kept(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.put("a", 2, if_in_flight="buffer")
    assert await queue.cancel("a", keep_successor=True) is True
    assert await queue.state("a") == "leased"
    with pytest.raises(LeaseCancelledError):
        await lease.ack()
    assert await queue.peek("a") == 2
    assert (await queue.statistics()).cancelled == 1


async def test_an_update_of_a_cancelled_item_goes_with_it(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.put("a", 2)
    await queue.cancel("a", keep_successor=True)
    with pytest.raises(LeaseCancelledError):
        await lease.release()
    assert await queue.state("a") == "absent"


@pytest.mark.parametrize("policy", ["update", "buffer"])
async def test_what_is_put_later_is_new_work(queue: Queue, policy: str) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    outcome = await queue.put("a", 2, if_in_flight=policy)  # type: ignore[arg-type]
    assert outcome is PutOutcome.BUFFERED
    with pytest.raises(LeaseCancelledError):
        await lease.ack()
    assert await queue.peek("a") == 2


async def test_what_is_put_later_is_refused_as_it_asks(queue: Queue) -> None:
    await lease_of(queue, "a", 1)
    await queue.cancel("a")
    with pytest.raises(KeyAlreadyInFlightError):
        await queue.put("a", 2, if_in_flight="reject")


async def test_what_was_put_later_can_be_cancelled_too(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a")
    await queue.put("a", 2)
    assert await queue.cancel("a", keep_successor=True) is False
    assert await queue.cancel("a") is True
    with pytest.raises(LeaseCancelledError):
        await lease.ack()
    assert await queue.state("a") == "absent"


# Batches, pools and transactions


async def test_a_cancelled_lease_leaves_its_batch_and_the_others_go_on(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])
    async with queue.lease_batch(2) as batch:
        await queue.cancel("a")
        leases = [*batch]
    assert {lease.key: lease.ended for lease in [*batch.lost, *leases]} == {
        "a": "cancelled",
        "b": "acked",
    }
    counts = await queue.statistics()
    assert (counts.acked, counts.cancelled, counts.leased) == (1, 1, 0)


async def test_a_batch_whose_items_are_all_cancelled_ends(queue: Queue) -> None:
    await queue.put_many([("a", 1), ("b", 2)])

    async def cancel() -> None:
        for key in "ab":
            await queue.cancel(key, reason="no more")

    async with create_task_group() as tg:
        with pytest.raises(LeaseCancelledError, match="no more"):
            async with queue.lease_batch(2):
                tg.start_soon(cancel)
                await sleep_forever()
    assert (await queue.statistics()).cancelled == 2


async def test_a_pool_goes_on_when_an_item_is_cancelled(queue: Queue) -> None:
    done: list[str] = []

    async def handle(lease: object) -> None:
        key = lease.key  # type: ignore[attr-defined]
        if key == "a":
            await sleep_forever()
        done.append(key)

    async with create_task_group() as tg:
        await tg.start(serve, queue, handle, 1)
        await queue.put("a", 1)
        await until(queue, leased=1)
        await queue.put("b", 2)
        await queue.cancel("a")
        await until(queue, acked=1)
        tg.cancel_scope.cancel()
    assert done == ["b"]
    assert (await queue.statistics()).cancelled == 1


async def test_a_pool_of_batches_goes_on_when_an_item_is_cancelled(queue: Queue) -> None:
    async def handle(batch: object) -> None:
        if [lease.key for lease in batch] == ["a"]:  # type: ignore[attr-defined]
            await sleep_forever()

    async with create_task_group() as tg:
        await tg.start(serve_batches, queue, handle, 1)
        await queue.put("a", 1)
        await until(queue, leased=1)
        await queue.put("b", 2)
        await queue.cancel("a")
        await until(queue, acked=1)
        tg.cancel_scope.cancel()
    assert (await queue.statistics()).cancelled == 1


@pytest.mark.parametrize("step", ["ack", "release", "reject"])
async def test_a_transaction_with_a_cancelled_lease_does_nothing(queue: Queue, step: str) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a", reason="late")
    with pytest.raises(TransactionError) as caught:
        async with queue._transaction() as transaction:
            transaction.put(queue, "b", 1)
            if step == "reject":
                transaction.reject(lease, "bad")
            else:
                getattr(transaction, step)(lease)
    [failure] = caught.value.failures
    assert isinstance(failure, LeaseCancelledError)
    assert failure.reason == "late"
    assert await queue.state("b") == "absent"
    assert await queue.state("a") == "leased"


# The end


async def test_a_closed_queue_cancels_nothing(queue: Queue) -> None:
    await queue.put("a", 1)
    await queue.close()
    with pytest.raises(QueueClosedError):
        await queue.cancel("a")


async def test_a_consumer_that_is_gone_leaves_its_cancelled_keys_free(queue: Queue) -> None:
    await lease_of(queue, "a", 1, consumer="gone")
    await queue.cancel("a")
    assert await queue.release_all(consumer="gone") == 1
    counts = await queue.statistics()
    assert (counts.cancelled, counts.released) == (1, 0)
    await is_free(queue, "a")


@pytest.mark.parametrize("reason", [None, 1, b"x"])
async def test_a_reason_that_is_no_text_is_refused(queue: Queue, reason: object) -> None:
    await queue.put("a", 1)
    with pytest.raises(TypeError, match="reason"):
        await queue.cancel("a", reason=reason)  # type: ignore[arg-type]
    assert await queue.peek("a") == 1


async def test_an_option_that_is_no_flag_is_refused(queue: Queue) -> None:
    with pytest.raises(TypeError, match="keep_successor"):
        await queue.cancel("a", keep_successor=1)  # type: ignore[arg-type]


async def test_a_key_that_cannot_be_one_is_refused(queue: Queue) -> None:
    with pytest.raises(TypeError):
        await queue.cancel([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["", "ünïcode ☃", "two\nlines\0", "\ud800"])
async def test_any_text_is_a_reason(queue: Queue, reason: str) -> None:
    lease = await lease_of(queue, "a", 1)
    assert await queue.cancel("a", reason=reason) is True
    with pytest.raises(LeaseCancelledError) as caught:
        await lease.ack()
    assert caught.value.reason in (reason, reason.replace("\ud800", r"\ud800"))


async def test_a_long_reason_is_cut(queue: Queue) -> None:
    lease = await lease_of(queue, "a", 1)
    await queue.cancel("a", reason="ä" * 10_000)
    with pytest.raises(LeaseCancelledError) as caught:
        await lease.ack()
    assert caught.value.reason == "ä" * 4096


async def test_a_reason_that_is_no_unicode_is_kept_as_far_as_it_can_be(start: Start) -> None:
    queue = await start(history=5)
    lease = await lease_of(queue, "a", 1)
    assert await queue.cancel("a", reason="\ud800 is half a letter\0") is True
    with pytest.raises(LeaseCancelledError, match="half a letter") as caught:
        await lease.ack()
    assert caught.value.reason in ("\ud800 is half a letter\0", "\\ud800 is half a letter\0")
    counts = await queue.statistics()
    assert (counts.cancelled, counts.leased) == (1, 0)


# Two processes


@pytest.mark.needs("handles")
async def test_a_body_in_another_process_hears_of_it_by_a_hint(both: Handles) -> None:
    here, there = both
    await here.put("a", 1)
    async with create_task_group() as tg:
        with pytest.raises(LeaseCancelledError, match="from there"):
            async with here.lease():
                tg.start_soon(lambda: there.cancel("a", reason="from there"))
                await sleep_forever()
    assert await there.state("a") == "absent"


@pytest.mark.needs("handles")
@each_way
async def test_a_holder_in_another_process_hears_of_it_with_its_next_call(
    both: Handles, how: str
) -> None:
    here, there = both
    lease = await lease_of(here, "a", 1)
    assert await there.cancel("a", reason="from there") is True
    with pytest.raises(LeaseCancelledError, match="from there"):
        await settle(lease, how)
    assert await there.state("a") == ("leased" if how == "extend" else "absent")


@pytest.mark.needs("handles")
async def test_a_handle_that_is_closed_leaves_its_cancelled_keys_free(both: Handles) -> None:
    here, there = both
    await lease_of(here, "a", 1)
    await lease_of(here, "b", 1)
    await there.cancel("a")
    await others_run()
    await here.close()
    assert [await there.state(key) for key in "ab"] == ["absent", "ready"]


@pytest.mark.needs("handles")
async def test_a_receipt_of_a_cancelled_lease_says_so(both: Handles) -> None:
    here, there = both
    lease = await lease_of(here, "a", 1)
    receipt = lease.receipt
    await there.cancel("a", reason="why not")
    with pytest.raises(LeaseCancelledError, match="why not"):
        await there.lease_of(receipt)
    assert await there.state("a") == "leased"


# Sweeps


async def balanced(queue: Queue) -> None:
    """Wait until no lease is left, and check that all that was put is somewhere."""
    while (counts := await queue.statistics()).leased:
        await checkpoint()
    left = counts.acked + counts.dead + counts.dropped + counts.superseded + counts.cancelled
    assert counts.put == counts.ready + counts.delayed + counts.buffered + left


def worked_on(engine: Engine, pause: int) -> Scenario:
    """A worker whose item is cancelled after some steps and put anew, beside another worker."""

    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        at_work: set[str] = set()
        queue = await engine.queue()

        async def work() -> None:
            with suppress(LeaseCancelledError):
                async with queue.lease() as lease:
                    assert lease.key not in at_work, "two hands have the key"
                    at_work.add(lease.key)
                    try:
                        await checkpoint()
                    finally:
                        with CancelScope(shield=True):
                            await checkpoint()
                            at_work.remove(lease.key)

        async def cancel() -> None:
            await queue.put("a", 1)
            for _ in range(pause):
                await checkpoint()
            await queue.cancel("a")
            await queue.put_many([("a", 2), ("b", 3)])

        async with create_task_group() as tg:
            await tg.start(queue.run)
            tg.start_soon(work)
            async with create_task_group() as cancelling:
                cancelling.start_soon(cancel)
                yield work
            await balanced(queue)
            tg.cancel_scope.cancel()

    def fresh() -> AbstractAsyncContextManager[Operation]:
        return scenario()

    return fresh


@pytest.mark.parametrize("pause", [0, 1, 3, 6, 10])
async def test_a_cancellation_in_any_step_of_a_lease_leaves_one_hand_and_loses_nothing(
    engine: Engine, pause: int
) -> None:
    await sweep(worked_on(engine, pause))


async def test_a_caller_that_is_cancelled_has_cancelled_all_or_nothing(engine: Engine) -> None:
    @asynccontextmanager
    async def scenario() -> AsyncGenerator[Operation]:
        queue = await engine.queue()
        async with create_task_group() as tg:
            await tg.start(queue.run)
            lease = await lease_of(queue, "a", 1)
            await queue.put("a", 2, if_in_flight="buffer")
            yield lambda: queue.cancel("a")
            with suppress(LeaseCancelledError):
                await lease.ack()
            counts = await queue.statistics()
            assert (counts.acked, counts.cancelled, counts.ready) in [(1, 0, 1), (0, 2, 0)]
            tg.cancel_scope.cancel()

    await sweep(scenario)
