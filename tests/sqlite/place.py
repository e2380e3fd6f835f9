"""A file and the processes that use it, without threads and without an event loop."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import patch

from leaseq._core.options import ANY_KEY, BrokerQueueOptions
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._remote import protocol as p
from leaseq._remote.protocol import QueueRef
from leaseq._sqlite import file as files
from leaseq._sqlite.file import File
from leaseq._sqlite.url import SqliteUrl

__all__ = ["QUEUE", "Place", "claim", "claimed", "put"]

QUEUE = QueueRef("orders", QueueRef("lost"))


class Place:
    """A file, what its processes were told, and a clock that stands still until it is moved."""

    def __init__(self, path: Path, *, begin: float = 1_000_000.0) -> None:
        self.path = path
        self.now = begin
        self.told: list[tuple[str, p.Event]] = []
        self.numbers = 0
        self._files: dict[str, File] = {}
        self._clock = patch.object(files.time, "time", lambda: self.now)
        self._clock.start()

    def file(self, process: str) -> File:
        """The file, as a process has it open."""
        if process not in self._files:
            url = SqliteUrl(self.path, synchronous="normal", request_timeout=0.05)
            self._files[process] = File(url, process, f"of {process}", self._is_heard)
            self._files[process].open()
        return self._files[process]

    def _is_heard(self, address: str) -> bool:
        return address.removeprefix("of ") in self._files

    def leave(self, process: str) -> None:
        """Let a process end without a word."""
        self._files.pop(process)._let_go()

    def declare(self, **options: Any) -> None:
        """Make the queue, and that of its dead letters."""
        given: BrokerQueueOptions = {"dead_letters": "lost", **options}
        letters = given["dead_letters"]
        ref = QueueRef("orders", QueueRef(letters) if letters else None)
        self.do("a", p.Declare(ref, given))

    def batch(self, *operations: p.Operation[Any]) -> p.Batch:
        """Return a batch of the next number."""
        self.numbers += 1
        return p.Batch(self.numbers, operations)

    def exchange(self, process: str, batch: p.Batch) -> p.Reply:
        """Have a batch done, for the first time or once more."""
        reply, told = self.file(process).do(batch)
        self.told += [(name, event) for name, _, event in told]
        return reply

    def do(self, process: str, operation: p.Operation[Any]) -> Any:
        """Have an operation done, and return its answer."""
        [answer] = self.exchange(process, self.batch(operation)).answers
        return answer

    def woken(self) -> list[str]:
        """The processes that were woken since the last look."""
        told, self.told = self.told, []
        return [process for process, event in told if isinstance(event, p.Woken)]

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        """What another program sees in the file."""
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            connection.close()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._clock.stop()


def put(*keys: str, behind: bool = False, queue: QueueRef = QUEUE, **options: Any) -> p.Put:
    items = tuple((key, key.encode()) for key in keys)
    return p.Put(queue, items, PutRequest(**options), behind=behind)


def claim(count: int = 1, *, parks: bool = False, patient: bool = False, **options: Any) -> p.Claim:
    request: ClaimRequest[Any] = ClaimRequest(options.pop("key", ANY_KEY), **options)
    return p.Claim(QUEUE, (p.ClaimFor(request, count, patient),), parks)


def claimed(answer: Any) -> list[tuple[Any, int]]:
    """The keys and tokens that a claim has brought."""
    [batch] = answer.batches
    return [(each.key, each.token) for each in batch]
