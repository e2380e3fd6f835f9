"""A pool of workers that Ctrl-C stops: what runs is finished, what is left stays in line.

Press Ctrl-C, or let the program do it: it sends itself the signal after half a second. A second
Ctrl-C, for the impatient, cancels what is running.
"""

import signal

import anyio

from leaseq import Lease, LeasedKeyQueue, serve, stop_on_signals

ORDERS = {f"order-{number}": 0.05 + number % 5 * 0.05 for number in range(40)}
WORKERS = 4
GRACE = 0.12


async def pack(lease: Lease[str, float]) -> None:
    try:
        await anyio.sleep(lease.value)
        print(f"{lease.key}: packed")
    except anyio.get_cancelled_exc_class():
        print(f"{lease.key}: put back")
        raise


async def press_ctrl_c() -> None:
    await anyio.sleep(0.5)
    signal.raise_signal(signal.SIGINT)


async def main() -> None:
    stop = anyio.Event()
    async with (
        anyio.create_task_group() as tg,
        LeasedKeyQueue[str, float](default_lease_timeout=10, name="orders") as queue,
    ):
        await tg.start(queue.run)
        await tg.start(stop_on_signals, stop)
        tg.start_soon(press_ctrl_c)
        await queue.put_many(ORDERS)
        await serve(queue, pack, WORKERS, stop=stop, grace=GRACE)
        statistics = await queue.statistics()
        tg.cancel_scope.cancel()  # the timekeeper, and who listens to signals: last
    print(f"{statistics.acked} packed, {statistics.ready} left, {statistics.leased} in between")
    assert statistics.acked + statistics.ready == len(ORDERS)


if __name__ == "__main__":
    anyio.run(main)
