"""saq, which has no call that puts in many: as many at once as are taken out at once."""

import asyncio

from driver import CONCURRENCY, Clock, arguments, value
from saq import Queue, Worker

asked = arguments()
clock = Clock(asked.items)


async def handle(ctx: object, *, item: dict[str, object]) -> None:
    if clock.handled():
        clock.report()


async def main() -> None:
    queue = Queue.from_url(asked.url)
    numbers = iter(range(asked.items))

    async def put_in() -> None:
        for number in numbers:
            await queue.enqueue("handle", item=value(number))

    with clock:
        await asyncio.gather(*(put_in() for _ in range(CONCURRENCY)))
    await Worker(queue, functions=[handle], concurrency=CONCURRENCY).start()


asyncio.run(main())
