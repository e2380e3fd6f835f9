"""leaseq, in each of its ways to take work. On asyncio and trio."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from driver import Peer, asked, begin, end, handle, value
from sizes import KEEP

import leaseq
from leaseq.tasks import TaskQueue, TaskWorker

SIZE = 100
"""The most items of a batch."""

tasks = TaskQueue(lease_timeout=asked.lease or 60.0)


@tasks.task(result_ttl=KEEP if asked.results else None)
async def job(item: dict[str, Any]) -> object:
    return await handle(item, anyio.sleep)


async def handle_lease(lease: leaseq.Lease[int, dict[str, Any]]) -> None:
    await handle(lease.value, anyio.sleep)


async def handle_batch(batch: leaseq.LeaseBatch[int, dict[str, Any]]) -> None:
    for lease in batch:
        begin(lease.value)
    if asked.work_for:
        await anyio.sleep(asked.work_for)
    for lease in batch:
        end(lease.value)


async def take_batches(queue: leaseq.LeasedQueue[int, Any], **options: Any) -> None:
    while True:
        async with queue.lease_batch(SIZE) as batch:
            await handle_batch(batch)


class Leaseq(Peer):
    has_bulk = True

    def __init__(self, broker: leaseq.Broker, tg: TaskGroup) -> None:
        self.broker, self.tg = broker, tg

    async def open(self) -> None:
        self.queue: leaseq.LeasedQueue[int, Any] = await self.broker.queue(
            "jobs", default_lease_timeout=asked.lease or 30.0
        )
        await self.tg.start(self.broker.run)

    async def put(self, number: int) -> None:
        if asked.way == "tasks":
            await tasks.push(job.task(value(number)), tenant=asked.tenant)
        else:
            await self.queue.put(number, value(number), tenant=asked.tenant)

    async def put_many(self, numbers: Sequence[int]) -> None:
        if asked.way == "tasks":
            made = [job.task(value(number)) for number in numbers]
            await tasks.push_many(made, tenant=asked.tenant)
        else:
            pairs = [(number, value(number)) for number in numbers]
            await self.queue.put_many(pairs, tenant=asked.tenant)

    async def together(self, calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
        async with anyio.create_task_group() as tg:
            for call in calls:
                tg.start_soon(call)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def work(self) -> None:
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "serve": partial(leaseq.serve, self.queue, handle_lease, asked.concurrency),
            "serve_batches": partial(leaseq.serve_batches, self.queue, handle_batch, SIZE),
            "lease_batch": partial(take_batches, self.queue),
            "tasks": TaskWorker(tasks, concurrency=asked.concurrency).run,
        }
        await ways[asked.way or "serve"]()


async def main() -> None:
    async with leaseq.connect(asked.url) as broker, anyio.create_task_group() as tg:
        with tasks.bind(broker):
            peer = Leaseq(broker, tg)
            await peer.open()
            await peer.run()
            tg.cancel_scope.cancel()


anyio.run(main, backend=asked.backend)
