"""leaseq: `put_many`, and `serve` with a handler that does nothing. On asyncio and trio."""

import anyio
from driver import CONCURRENCY, Clock, arguments, batches, value

import leaseq

asked = arguments()
clock = Clock(asked.items)


async def handle(lease: leaseq.Lease[int, dict[str, object]]) -> None:
    if clock.handled():
        clock.report()


async def main() -> None:
    async with leaseq.connect(asked.url) as broker, anyio.create_task_group() as tg:
        queue: leaseq.LeasedQueue[int, dict[str, object]] = await broker.queue("jobs")
        await tg.start(broker.run)
        with clock:
            for numbers in batches(asked.items):
                await queue.put_many([(number, value(number)) for number in numbers])
        await tg.start(leaseq.serve, queue, handle, CONCURRENCY)


anyio.run(main, backend=asked.backend)
