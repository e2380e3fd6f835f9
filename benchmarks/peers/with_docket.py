"""docket, which has no call that puts in many.

It takes as many tasks as it can run, and looks again after an interval: a quarter of a second, or
as in its guide for production a tenth; with less it drains faster.
"""

import asyncio
from datetime import timedelta

from docket import Docket, Worker
from driver import Peer, asked, handle, value
from sizes import KEEP

INTERVAL = timedelta(milliseconds=10)
OPTIONS = {"redelivery_timeout": timedelta(seconds=asked.lease)} if asked.lease else {}


async def job(item: dict[str, object]) -> object:
    return await handle(item)


async def job_without_result(item: dict[str, object]) -> None:
    await handle(item)


FUNCTION = job if asked.results else job_without_result  # by which docket knows what to keep


class OfDocket(Peer):
    def __init__(self, docket: Docket) -> None:
        self.docket = docket

    async def put(self, number: int) -> None:
        await self.docket.add(FUNCTION)(value(number))

    async def work(self) -> None:
        worker = Worker(
            self.docket,
            concurrency=asked.concurrency,
            minimum_check_interval=INTERVAL,
            **OPTIONS,
        )
        async with worker:
            await worker.run_forever()


async def main() -> None:
    kept = timedelta(seconds=KEEP if asked.results else 0)
    async with Docket(name="jobs", url=asked.url, execution_ttl=kept) as docket:
        docket.register(FUNCTION)
        await OfDocket(docket).run()


asyncio.run(main())
