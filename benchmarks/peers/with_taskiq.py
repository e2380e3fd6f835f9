"""taskiq on taskiq-redis: its stream broker, which acknowledges, and its result backend."""

import asyncio

from driver import Peer, asked, handle, value
from sizes import KEEP
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

OPTIONS = {"idle_timeout": int(asked.lease * 1000)} if asked.lease else {}
broker = RedisStreamBroker(url=asked.url, **OPTIONS)
if asked.results:
    results: RedisAsyncResultBackend[object] = RedisAsyncResultBackend(
        redis_url=asked.url, result_ex_time=KEEP
    )
    broker = broker.with_result_backend(results)


@broker.task
async def job(item: dict[str, object]) -> object:
    return await handle(item)


class Taskiq(Peer):
    async def put(self, number: int) -> None:
        await job.kiq(value(number))

    async def work(self) -> None:
        await run_receiver_task(broker, max_async_tasks=asked.concurrency)


async def main() -> None:
    await broker.startup()
    await Taskiq().run()


asyncio.run(main())
