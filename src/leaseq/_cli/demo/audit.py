"""The demo's check on the queue: a database that knows fencing tokens, and an onlooker.

Neither believes anything that the queue says of itself. The onlooker is told who takes which file
and who lets go of it, and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leaseq import Lease

from .files import Facts

__all__ = ["Audit", "Database", "Record"]


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
        """What is stored."""
        return self._records

    def write(self, path: Path, record: Record) -> bool:
        """Store `record`, unless one with a higher token is there; return whether it was stored."""
        stored = self._records.get(path)
        if stored is not None and record.token < stored.token:
            return False
        self._records[path] = record
        return True


class Audit:
    """Watches the hands that files pass through.

    A hand is on a file from the moment it takes the lease until it lets go, or until the lease's
    deadline: a dead worker lets go of nothing, and has lost its file when the time is up.

    Args:
        files: What has to be done, each in revision 0.
    """

    __slots__ = ("_doubled", "_hands", "_revisions", "_stale", "_tokens")

    def __init__(self, files: Iterable[Path]) -> None:
        self._revisions = dict.fromkeys(files, 0)
        self._hands: dict[Path, Lease[Path, int]] = {}
        self._tokens: dict[Path, int] = {}
        self._doubled: list[Path] = []
        self._stale: list[Path] = []

    def saved(self, path: Path, revision: int) -> None:
        """Note that the file has changed: it is done when this revision is."""
        self._revisions[path] = revision

    def taken(self, lease: Lease[Path, int], now: float) -> None:
        """Note that somebody got `lease`."""
        path = lease.key
        other = self._hands.get(path)
        if other is not None and now < other.deadline:
            self._doubled.append(path)
        if path in self._tokens and lease.token <= self._tokens[path]:
            self._stale.append(path)
        self._hands[path] = lease
        self._tokens[path] = lease.token

    def let_go(self, lease: Lease[Path, int]) -> None:
        """Note that the holder of `lease` is about to settle it."""
        if self._hands.get(lease.key) is lease:
            del self._hands[lease.key]

    def failures(self, records: Mapping[Path, Record]) -> tuple[str, ...]:
        """Return what is wrong at the end, a sentence for each check that failed."""
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
