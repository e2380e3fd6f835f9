"""arq, which has no call that puts in many: as many at once as are taken out at once."""

import asyncio

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from driver import CONCURRENCY, Clock, arguments, value

asked = arguments()
clock = Clock(asked.items)


async def handle(ctx: object, item: dict[str, object]) -> None:
    if clock.handled():
        clock.report()


async def main() -> None:
    settings = RedisSettings.from_dsn(asked.url)
    pool = await create_pool(settings)
    numbers = iter(range(asked.items))

    async def put_in() -> None:
        for number in numbers:
            await pool.enqueue_job("handle", value(number))

    with clock:
        await asyncio.gather(*(put_in() for _ in range(CONCURRENCY)))
    worker = Worker([handle], redis_settings=settings, max_jobs=CONCURRENCY, handle_signals=False)
    await worker.async_run()


asyncio.run(main())
