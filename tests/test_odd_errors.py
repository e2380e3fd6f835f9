"""Errors that are odd as objects: of a body, of a handler, of a batch, of a policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anyio import create_task_group, fail_after

from leaseq import Lease, LeaseBatch, LeasedKeyQueue, Retry, serve, serve_batches

pytestmark = pytest.mark.anyio

Queue = LeasedKeyQueue[str, int]


class SelfGroup(ExceptionGroup):
    """A group that holds itself."""

    @property
    def exceptions(self) -> tuple[Exception, ...]:  # type: ignore[override]
        return (self,)


class UnsplitGroup(ExceptionGroup):
    """A group that cannot be split."""

    def split(self, *args: Any) -> Any:
        raise ArithmeticError("not to be split")

    def derive(self, *args: Any) -> Any:
        raise ArithmeticError("not to be derived")


class ShyGroup(ExceptionGroup):
    """A group that does not say what it holds."""

    @property
    def exceptions(self) -> tuple[Exception, ...]:  # type: ignore[override]
        raise ArithmeticError("not to be seen")


class Shapeless(Exception):  # noqa: N818
    """An error that has no class, it says."""

    @property
    def __class__(self) -> Any:
        raise ArithmeticError("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


ERRORS: dict[str, Callable[[], Exception]] = {
    "a group that holds itself": lambda: SelfGroup("odd", [KeyError(1)]),
    "a group that cannot be split": lambda: UnsplitGroup("odd", [KeyError(1)]),
    "a group that cannot be looked into": lambda: ShyGroup("odd", [KeyError(1)]),
    "an error without a class": Shapeless,
}


async def by_hand(queue: Queue, make: Callable[[], Exception]) -> None:
    async for lease in queue:
        try:
            async with lease:
                if lease.deliveries == 1:
                    raise make()
        except Exception:
            pass


async def in_a_batch(queue: Queue, make: Callable[[], Exception]) -> None:
    for turn in range(2):
        try:
            async with queue.lease_batch(5):
                if not turn:
                    raise make()
        except Exception:
            pass


async def in_a_pool(queue: Queue, make: Callable[[], Exception]) -> None:
    async def handle(lease: Lease[str, int]) -> None:
        if lease.deliveries == 1:
            raise make()

    await serve(queue, handle, 2)


async def in_a_pool_of_batches(queue: Queue, make: Callable[[], Exception]) -> None:
    async def handle(batch: LeaseBatch[str, int]) -> None:
        if any(lease.deliveries == 1 for lease in batch):
            raise make()

    await serve_batches(queue, handle, 5)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("work", [by_hand, in_a_batch, in_a_pool, in_a_pool_of_batches])
async def test_an_odd_error_is_a_failure_like_others(
    work: Callable[[Queue, Callable[[], Exception]], Awaitable[None]], error: str
) -> None:
    queue = Queue()
    await queue.put_many({"a": 1, "b": 2})
    await queue.shutdown()
    with fail_after(20):
        await work(queue, ERRORS[error])
    counts = await queue.statistics()
    assert (counts.acked, counts.released, counts.leased, counts.ready) == (2, 2, 0, 0)


class InterruptedRetry(Retry):
    """A policy during which Ctrl-C is pressed."""

    def delay(self, deliveries: int) -> float:
        raise KeyboardInterrupt


@pytest.mark.parametrize("batch", [False, True], ids=["lease", "batch"])
async def test_an_interrupt_within_a_policy_holds_no_item(batch: bool) -> None:
    queue = Queue(retry=InterruptedRetry())
    await queue.put("a", 1)
    async with create_task_group() as tg:
        await tg.start(queue.run)
        with pytest.raises(KeyboardInterrupt):
            async with queue.lease_batch(1) if batch else queue.lease():
                raise ValueError
        counts = await queue.statistics()
        assert (counts.leased, counts.ready, counts.delivered) == (0, 1, 0)
        tg.cancel_scope.cancel()


async def test_leaving_a_lease_that_was_not_entered_is_told() -> None:
    queue = Queue()
    await queue.put("a", 1)
    _, _, lease = await queue.get()
    with pytest.raises(RuntimeError, match="is not entered: use async with"):
        await lease.__aexit__(None, None, None)
    assert lease.ended is None
