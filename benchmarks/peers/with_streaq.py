"""streaq, with its batch call; pickle, as it comes. On asyncio and trio."""

from collections.abc import Sequence
from functools import partial

import anyio
from driver import Peer, asked, handle, value
from sizes import KEEP
from streaq import Worker

OPTIONS = {"idle_timeout": asked.lease} if asked.lease else {}
worker = Worker(
    redis_url=asked.url,
    concurrency=asked.concurrency,
    anyio_backend=asked.backend,
    handle_signals=False,
    **OPTIONS,
)


@worker.task(ttl=KEEP if asked.results else 0, silent=True)
async def job(item: dict[str, object]) -> object:
    return await handle(item, anyio.sleep)


class Streaq(Peer):
    has_bulk = True

    async def put(self, number: int) -> None:
        await job.enqueue(value(number))

    async def put_many(self, numbers: Sequence[int]) -> None:
        await worker.enqueue_many([job.enqueue(value(number)) for number in numbers])

    async def together(self, calls: Sequence[object]) -> None:
        async with anyio.create_task_group() as tg:
            for call in calls:
                tg.start_soon(call)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def work(self) -> None:
        """In `run_async`, which has a connection of its own."""


async def main(peer: Streaq) -> None:
    async with worker:
        await peer.run()


if asked.mode != "work":
    anyio.run(partial(main, Streaq()), backend=asked.backend)
if asked.mode != "put":
    worker.run_sync()
