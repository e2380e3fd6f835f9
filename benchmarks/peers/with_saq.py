"""SAQ, which has no call that puts in many. Its sweep looks as often as a job may last."""

import asyncio

from driver import Peer, asked, handle, value
from saq import Queue, Worker
from sizes import KEEP

OPTIONS: dict[str, object] = {"ttl": KEEP if asked.results else -1, "retries": 3}
TIMERS = {}
if asked.lease:
    OPTIONS |= {"timeout": int(asked.lease)}
    TIMERS = {"sweep": int(asked.lease)}


async def job(ctx: object, *, item: dict[str, object]) -> object:
    return await handle(item)


class Saq(Peer):
    def __init__(self) -> None:
        self.queue = Queue.from_url(asked.url)

    async def put(self, number: int) -> None:
        await self.queue.enqueue("job", item=value(number), **OPTIONS)

    async def work(self) -> None:
        await Worker(
            self.queue, functions=[job], concurrency=asked.concurrency, timers=TIMERS or None
        ).start()


async def main() -> None:
    await Saq().run()


asyncio.run(main())
