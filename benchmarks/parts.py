"""The parts of a call by themselves, and a floor: the least that a keyed and leased queue does."""

from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

from anyio import CancelScope
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .cycle import LEASE_TIMEOUT, nowait_cycle
from .harness import MICROSECONDS, Bench, Row, Stopwatch
from .queues import leaseq, timeless

ITEMS = 20_000
ROUNDS = 9


class Floor:
    """A queue with keys and leases in plain Python, and nothing else: no checks, no ways back."""

    def __init__(self) -> None:
        self.ready: OrderedDict[int, list[int]] = OrderedDict()
        self.leased: dict[int, list[int]] = {}
        self.token = 0

    def put(self, key: int, value: int) -> None:
        """Put an item, or give it another value."""
        item = self.ready.get(key)
        if item is None:
            self.ready[key] = [value, 0]
        else:
            item[0] = value

    def get(self) -> tuple[int, int, int]:
        """Lease the first item."""
        key, item = self.ready.popitem(last=False)
        self.token = item[1] = self.token + 1
        self.leased[key] = item
        return key, item[0], self.token

    def ack(self, key: int, token: int) -> None:
        """Acknowledge it."""
        if self.leased[key][1] != token:
            raise ValueError(key)
        del self.leased[key]


async def floor(items: int) -> float:
    """put + get + ack of the floor."""
    queue = Floor()
    with Stopwatch() as watch:
        for key in range(items):
            queue.put(key, key)
            _, _, token = queue.get()
            queue.ack(key, token)
    return watch.seconds / items


async def checkpoints(items: int) -> float:
    """A checkpoint, which suspends."""
    with Stopwatch() as watch:
        for _ in range(items):
            await checkpoint()
    return watch.seconds / items


async def looks(items: int) -> float:
    """anyio's look for a cancellation, which does not suspend without one."""
    with Stopwatch() as watch:
        for _ in range(items):
            await checkpoint_if_cancelled()
    return watch.seconds / items


async def scopes(items: int) -> float:
    """A cancel scope that is entered and left."""
    with Stopwatch() as watch:
        for _ in range(items):
            with CancelScope():  # noqa: ASYNC100
                pass
    return watch.seconds / items


def parts(bench: Bench) -> Iterator[Row]:
    """the parts of a call by themselves, in microseconds."""
    plain = partial(nowait_cycle, timeless)
    timed = partial(nowait_cycle, partial(leaseq, LEASE_TIMEOUT))
    subjects = (floor, plain, timed, checkpoints, looks, scopes)
    costs = bench.measure(subjects, items=bench.items(ITEMS), rounds=ROUNDS)
    yield costs.amount(MICROSECONDS, "put + get + ack: a floor in plain Python", floor)
    yield costs.amount(MICROSECONDS, "put + get + ack, nowait", plain)
    yield costs.amount(MICROSECONDS, "put + get + ack, nowait, timed", timed)
    yield costs.cost("nowait, to the floor", plain, floor)
    yield costs.amount(MICROSECONDS, "a checkpoint", checkpoints)
    yield costs.amount(MICROSECONDS, "anyio's look for a cancellation", looks)
    yield costs.amount(MICROSECONDS, "a cancel scope", scopes)
