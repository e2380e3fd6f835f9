"""Two steps of work, each handing over to the next in a transaction: nothing half done.

An order is priced, and then shipped. The step that is done is acked in the same transaction that
puts the next one, so that an order is always in one queue and never in two. Here workers die in the
middle of their work, again and again, and every order is shipped once all the same.
"""

import random
from contextlib import suppress

import anyio

from leaseq import Broker, LeasedQueue, connect

ORDERS = 30


class WorkerDiedError(Exception):
    pass


async def work(draw: random.Random) -> None:
    await anyio.sleep(0.01)
    if draw.random() < 0.3:
        raise WorkerDiedError


async def step(
    broker: Broker,
    source: LeasedQueue[str, str],
    target: LeasedQueue[str, str],
    draw: random.Random,
) -> None:
    """Do the work of one step, order by order, and hand each over to the next."""
    while True:
        with suppress(WorkerDiedError):
            async with source.lease() as lease, broker.transaction() as tx:
                tx.ack(lease)
                await work(draw)
                tx.put(target, lease.key, f"{lease.value}, {source.name}")
                await work(draw)  # who dies here has put nothing


async def main() -> None:
    draw = random.Random(5)
    async with connect("memory://") as broker:
        priced, shipped, done = [await broker.queue(name) for name in ("priced", "shipped", "done")]
        async with anyio.create_task_group() as tg:
            await tg.start(broker.run)
            for source, target in ((priced, shipped), (shipped, done)):
                for _ in range(3):
                    tg.start_soon(step, broker, source, target, draw)
            for number in range(ORDERS):
                await priced.add("ordered", message_id=f"order-{number}")
            await priced.join()
            await shipped.join()
            tries = {
                queue.name: (await queue.statistics()).delivered for queue in (priced, shipped)
            }
            leases = await done.get_batch(ORDERS + 1)
            tg.cancel_scope.cancel()

    for name, count in tries.items():
        print(f"{name}: {ORDERS} orders in {count} tries")
    assert {lease.key for lease in leases} == {f"order-{number}" for number in range(ORDERS)}
    assert {lease.value for lease in leases} == {"ordered, priced, shipped"}


if __name__ == "__main__":
    anyio.run(main)
