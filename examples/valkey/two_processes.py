"""Two worker processes on one queue: one is killed in mid-work, and the other finishes everything.

This process puts pages, waits until all are done, and looks who did them. A worker says which page
it begins, and notes that it is done in the same step in which it acknowledges it. So there is one
note for each page, with the token of its last holder. Needs a server:

    LEASEQ_URL=valkey://localhost:6379/0 python two_processes.py [asyncio|trio]
"""

import json
import os
import sys

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from leaseq import Broker, Lease, LeasedQueue, connect, serve, stop_on_signals

URL = os.environ.get("LEASEQ_URL", "valkey://localhost:6379/0")
PAGES = [f"page-{number}" for number in range(1, 25)]
Note = tuple[str, str, int]  # a page, who has done it, and under which token


async def queues(broker: Broker, run: str) -> tuple[LeasedQueue[str, None], LeasedQueue[str, Note]]:
    """Return the queues of the work and of the notes on it: the first process makes them."""
    pages = await broker.queue(f"pages-{run}", default_lease_timeout=1)
    return pages, await broker.queue(f"notes-{run}", type=Note)


async def work(broker: Broker, run: str, name: str) -> int:
    """What a worker process does, three pages at a time, until it is told to stop."""
    pages, notes = await queues(broker, run)

    async def index(lease: Lease[str, None]) -> None:
        print(json.dumps([lease.key, lease.token]), flush=True)
        await anyio.sleep(0.1)
        async with broker.transaction() as tx:  # both, or neither
            tx.ack(lease)
            tx.add(notes, (lease.key, name, lease.token))

    stop = anyio.Event()
    async with anyio.create_task_group() as tg:
        await tg.start(stop_on_signals, stop)
        print(json.dumps("ready"), flush=True)
        await serve(pages, index, 3, stop=stop)
    return 0


class Worker:
    """A worker process, as the one that has started it sees it."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.begun: dict[str, int] = {}  # the tokens of the pages
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def hear(self) -> None:
        """One thing that it says: it is ready, or begins a page."""
        said = json.loads(await self._lines.receive_until(b"\n", 1000))
        if said != "ready":
            self.begun[said[0]] = said[1]

    async def end(self) -> int:
        """Hear all that it says, until it has ended."""
        try:
            while True:
                await self.hear()
        except anyio.IncompleteRead:
            return await self.process.wait()


async def supervise(pages: LeasedQueue[str, None], ann: Worker, bob: Worker) -> None:
    await ann.hear()
    await bob.hear()
    await pages.put_many(dict.fromkeys(PAGES))
    for _ in range(5):
        await ann.hear()
    ann.process.kill()
    print(f"ann: killed, exit code {await ann.end()}")
    await pages.join()  # until all is done, by any process
    bob.process.terminate()  # as one asks a process to stop
    print(f"bob: stopped, exit code {await bob.end()}")


async def check(notes: LeasedQueue[str, Note], ann: Worker, bob: Worker) -> bool:
    """Whether each page was done once, and by its last holder."""
    done = [lease.value for lease in await notes.get_batch(2 * len(PAGES))]
    for page, name, token in done:
        after = " after ann" if token > ann.begun.get(page, token) else ""
        print(f"{page}: done by {name}{after}, token {token}")
    last = {page: max(ann.begun.get(page, 0), bob.begun.get(page, 0)) for page in PAGES}
    return sorted((page, token) for page, _, token in done) == sorted(last.items())


async def main(backend: str, run: str = "", name: str = "") -> int:
    async with anyio.create_task_group() as tg, connect(URL) as broker:
        await tg.start(broker.run)  # lets time pass, and hears when there is something to do
        if name:
            return await work(broker, run, name)
        pages, notes = await queues(broker, run := str(os.getpid()))
        program = [sys.executable, __file__, backend, run]
        async with (
            await anyio.open_process([*program, "ann"], stderr=None) as ann,
            await anyio.open_process([*program, "bob"], stderr=None) as bob,
        ):
            workers = Worker(ann), Worker(bob)
            await supervise(pages, *workers)
        well = await check(notes, *workers)
        print("nothing was lost, nothing was done by two" if well else "this must not be")
        for queue in (pages, notes):
            await broker.delete_queue(queue.name)
    return 0 if well else 1


if __name__ == "__main__":
    backend, *rest = sys.argv[1:] or ["asyncio"]
    sys.exit(anyio.run(main, backend, *rest, backend=backend))
