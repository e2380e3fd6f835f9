"""streaq, with its batch call; pickle, as it comes. On asyncio and trio."""

import anyio
from driver import CONCURRENCY, Clock, arguments, batches, value
from streaq import Worker

asked = arguments()
clock = Clock(asked.items)
worker = Worker(redis_url=asked.url, concurrency=CONCURRENCY, anyio_backend=asked.backend)


@worker.task
async def handle(item: dict[str, object]) -> None:
    if clock.handled():
        clock.report()


async def enqueue() -> None:
    async with worker:
        with clock:
            for numbers in batches(asked.items):
                await worker.enqueue_many([handle.enqueue(value(number)) for number in numbers])


anyio.run(enqueue, backend=asked.backend)
worker.run_sync()
