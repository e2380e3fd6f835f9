"""Checks of the queue: a database that knows fencing tokens, and an audit of the leases.

Neither relies on reports of the queue. Workers tell the audit when they take a file and when they
let go of it, and it compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leaseq import Lease

from .files import Facts


@dataclass(frozen=True, slots=True)
class Record:
    """The facts of one file, as of a revision of it, written under a token."""

    token: int
    revision: int
    facts: Facts


class Database:
    """The newest record of each file. It refuses, by its token, a write from a lost lease."""

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: dict[Path, Record] = {}

    @property
    def records(self) -> Mapping[Path, Record]:
        """The stored records, by file."""
        return self._records

    def write(self, path: Path, record: Record) -> bool:
        """Store `record` and return True, unless the stored one has a higher token."""
        stored = self._records.get(path)
        if stored is not None and record.token < stored.token:
            return False
        self._records[path] = record
        return True


class Audit:
    """Records the holder of each file, and finds the faults.

    A worker holds a file from the moment it takes the lease until it lets go, or until the lease's
    deadline: a dead worker does not let go, and has lost its file when the lease expires.

    Args:
        files: The files to be done, each in revision 0.
    """

    __slots__ = ("_doubled", "_holders", "_revisions", "_stale", "_tokens")

    def __init__(self, files: Iterable[Path]) -> None:
        self._revisions = dict.fromkeys(files, 0)
        self._holders: dict[Path, Lease[Path, int]] = {}
        self._tokens: dict[Path, int] = {}
        self._doubled: list[Path] = []
        self._stale: list[Path] = []

    def saved(self, path: Path, revision: int) -> None:
        """Record that the file has changed: it is done when this revision is."""
        self._revisions[path] = revision

    def taken(self, lease: Lease[Path, int], now: float) -> None:
        """Record that a worker has taken `lease`."""
        path = lease.key
        other = self._holders.get(path)
        if other is not None and now < other.deadline:
            self._doubled.append(path)
        if path in self._tokens and lease.token <= self._tokens[path]:
            self._stale.append(path)
        self._holders[path] = lease
        self._tokens[path] = lease.token

    def let_go(self, lease: Lease[Path, int]) -> None:
        """Record that the holder of `lease` is about to settle it."""
        if self._holders.get(lease.key) is lease:
            del self._holders[lease.key]

    def failures(self, records: Mapping[Path, Record]) -> tuple[str, ...]:
        """Return a sentence for each check that has failed at the end."""
        undone = [
            path
            for path, revision in self._revisions.items()
            if path not in records or records[path].revision != revision
        ]
        stale = self._stale + [
            path for path, record in records.items() if record.token != self._tokens.get(path)
        ]
        checks = {
            "not done, or not in the newest revision": undone,
            "in two hands at once": self._doubled,
            "not recorded under the newest token": stale,
        }
        return tuple(
            f"{len(paths)} of {len(self._revisions)} files {what}, the first is {paths[0]}"
            for what, paths in checks.items()
            if paths
        )
