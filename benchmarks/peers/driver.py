"""What the scripts that drive the queues share. It runs where leaseq is not installed.

A script puts no-op items in, and lets one worker of the same process take them out, so many at
once as `CONCURRENCY` says. What it measured goes to its standard output.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import NoReturn

CONCURRENCY = 32

BATCH = 1_000
"""How many items go in at once, with queues that have a call for that."""


def arguments() -> argparse.Namespace:
    """The server, how many items, and on what."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("items", type=int)
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    return parser.parse_args()


def value(number: int) -> dict[str, object]:
    """What an item carries: some 60 bytes of JSON."""
    return {"id": number, "to": "ada@example.org", "kind": "welcome"}


def batches(items: int) -> Iterator[range]:
    """The numbers of the items, `BATCH` at a time."""
    for start in range(0, items, BATCH):
        yield range(start, min(start + BATCH, items))


class Clock:
    """Takes the times: from the first item put in to the last, from the first handled to the last.

    The time that a worker takes to start, and to notice that there is work, does not count.
    """

    def __init__(self, items: int) -> None:
        self._items = items
        self._handled = 0
        self._enqueue = self._drain_started = 0.0

    def __enter__(self) -> None:
        """Items go in from now on."""
        self._enqueue = -time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._enqueue += time.perf_counter()

    def handled(self) -> bool:
        """One more item was handled; whether it was the last."""
        if not self._handled:
            self._drain_started = time.perf_counter()
        self._handled += 1
        return self._handled == self._items

    def report(self) -> NoReturn:
        """Say what was measured, and end the process as it is."""
        drain = time.perf_counter() - self._drain_started
        print(json.dumps({"enqueue": self._enqueue, "drain": drain}), flush=True)
        os._exit(0)
