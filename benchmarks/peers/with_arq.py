"""arq, which has no call that puts in many. A job is free again ten seconds after its time-out."""

import asyncio

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from driver import Peer, asked, handle, value
from sizes import KEEP

SETTINGS = RedisSettings.from_dsn(asked.url)


async def job(ctx: object, item: dict[str, object]) -> object:
    return await handle(item)


class Arq(Peer):
    async def put(self, number: int) -> None:
        await self.pool.enqueue_job("job", value(number))

    async def work(self) -> None:
        worker = Worker(
            [job],
            redis_settings=SETTINGS,
            max_jobs=asked.concurrency,
            handle_signals=False,
            keep_result=KEEP if asked.results else 0,
            job_timeout=asked.lease or 300,
        )
        await worker.async_run()


async def main() -> None:
    peer = Arq()
    peer.pool = await create_pool(SETTINGS)
    await peer.run()


asyncio.run(main())
