"""taskiq on taskiq-redis: its stream broker, which acknowledges, and its result backend."""

import asyncio

from driver import CONCURRENCY, Clock, arguments, value
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

asked = arguments()
clock = Clock(asked.items)
results: RedisAsyncResultBackend[None] = RedisAsyncResultBackend(redis_url=asked.url)
broker = RedisStreamBroker(url=asked.url).with_result_backend(results)


@broker.task
async def handle(item: dict[str, object]) -> None:
    if clock.handled():
        clock.report()


async def main() -> None:
    await broker.startup()
    numbers = iter(range(asked.items))

    async def put_in() -> None:
        for number in numbers:
            await handle.kiq(value(number))

    with clock:
        await asyncio.gather(*(put_in() for _ in range(CONCURRENCY)))
    await run_receiver_task(broker, max_async_tasks=CONCURRENCY)


asyncio.run(main())
