"""A worker that is too slow writes too late, and the database refuses it by its token.

The first worker's lease expires while it works. It shields itself, so it cannot be stopped; one
that waits for a thread cannot be stopped either. A second worker gets the item, with the newer
value, and writes. Then the first one writes.
"""

import sqlite3

import anyio

from leaseq import Lease, LeasedKeyQueue, LeaseLostError


class Prices:
    """A table in which the last lease wins, and not the last writer."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:")
        self._database.execute("CREATE TABLE prices (item PRIMARY KEY, price, token INTEGER)")

    def write(self, item: str, price: int, token: int) -> bool:
        """Write a price, unless a later lease has written one. False: it was refused."""
        done = self._database.execute(
            """INSERT INTO prices VALUES (:item, :price, :token)
               ON CONFLICT (item) DO UPDATE SET price = :price, token = :token
               WHERE token <= :token""",
            {"item": item, "price": price, "token": token},
        )
        return done.rowcount == 1

    def read(self, item: str) -> int:
        row = self._database.execute("SELECT price FROM prices WHERE item = ?", [item]).fetchone()
        return int(row[0])

    def close(self) -> None:
        self._database.close()


async def set_price(lease: Lease[str, int], prices: Prices, seconds: float) -> None:
    """Write the price after some work that cannot be stopped."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(seconds)
        written = prices.write(lease.key, lease.value, lease.token)
    print(f"{lease.key} = {lease.value}: {'written' if written else 'refused'}")


async def worker(queue: LeasedKeyQueue[str, int], prices: Prices, seconds: float) -> None:
    try:
        async with queue.lease() as lease:
            await set_price(lease, prices, seconds)
    except LeaseLostError:
        print(f"{lease.key} = {lease.value}: the lease was lost")


async def main() -> None:
    prices = Prices()
    async with (
        anyio.create_task_group() as tg,
        LeasedKeyQueue[str, int](default_lease_timeout=0.2, name="prices") as queue,
    ):
        await tg.start(queue.run)
        async with anyio.create_task_group() as workers:
            await queue.put("bread", 3)
            workers.start_soon(worker, queue, prices, 0.5)  # too slow
            await anyio.sleep(0.1)
            await queue.put("bread", 4)  # for the next try
            workers.start_soon(worker, queue, prices, 0.1)
    print(f"bread costs {prices.read('bread')}")
    assert prices.read("bread") == 4
    prices.close()


if __name__ == "__main__":
    anyio.run(main)
