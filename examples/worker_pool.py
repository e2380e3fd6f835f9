"""A pool of workers in a nursery: some fail, one hangs, and every page is fetched."""

import random

import anyio

from leaseq import Lease, LeasedKeyQueue, LeaseLostError

PAGES = [f"https://example.org/{number}" for number in range(1, 13)]
WORKERS = 4
GIVE_UP_AFTER = 5


async def fetch(page: str) -> str:
    """Stands for a download, from a server that has its moods."""
    mood = random.random()
    if mood < 0.2:
        raise OSError("connection reset")
    if mood < 0.3:
        await anyio.sleep_forever()
    await anyio.sleep(random.uniform(0.02, 0.1))
    return f"<title>{page}</title>"


async def handle(lease: Lease[str, None], fetched: dict[str, str]) -> None:
    if lease.deliveries > GIVE_UP_AFTER:
        print(f"{lease.key}: given up")
        return  # the body ends, so the item is done
    fetched[lease.key] = await fetch(lease.key)
    print(f"{lease.key}: fetched, delivery {lease.deliveries}")


async def worker(queue: LeasedKeyQueue[str, None], fetched: dict[str, str]) -> None:
    async for lease in queue:
        try:
            async with lease:
                await handle(lease, fetched)
        except LeaseLostError:
            print(f"{lease.key}: took too long, back in line")
        except OSError as error:
            print(f"{lease.key}: {error}, back in line")


async def main() -> None:
    random.seed(6)
    fetched: dict[str, str] = {}
    async with (
        anyio.create_task_group() as tg,
        LeasedKeyQueue[str, None](default_lease_timeout=0.3, name="pages") as queue,
    ):
        await tg.start(queue.run)
        async with anyio.create_task_group() as workers:
            for _ in range(WORKERS):
                workers.start_soon(worker, queue, fetched)
            await queue.put_many(dict.fromkeys(PAGES))
            await queue.shutdown()
        statistics = await queue.statistics()
    print(
        f"{len(fetched)} of {len(PAGES)} pages, {statistics.delivered} deliveries: "
        f"{statistics.released} failed, {statistics.expired} expired"
    )


if __name__ == "__main__":
    anyio.run(main)
