"""What is asked of the server: one thing, and a trip's load of them; and who waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from anyio import Event

from .._valkey.scripts import broker_keys, queue_keys

__all__ = [
    "Answer",
    "Ask",
    "Attendant",
    "Site",
    "Trip",
    "Word",
    "at_most_a_century",
    "microseconds",
]

Answer: TypeAlias = list[Any]
"""What the scripts say: words, numbers and lists of these."""

_BULK = 1 << 20  # bytes of keys and values that are taken on one trip, more or less
_MANY = 256  # things that are asked on one trip


def microseconds(seconds: float) -> bytes:
    """A duration as the scripts take it; `math.inf`: none."""
    return b"-1" if seconds == float("inf") else b"%d" % max(0, round(seconds * 1e6))


def at_most_a_century(seconds: float) -> bytes:
    """A duration as the scripts take it where they know no endless ones."""
    return microseconds(min(seconds, 3.15e9))


class Site:
    """A queue as the server knows it: its name, its keys, and where its dead letters go.

    A broker has one object for each name, for as long as anybody has to do with it: a call that had
    a queue twice would spoil it.
    """

    __slots__ = ("__weakref__", "keys", "letters", "name")

    def __init__(self, prefix: str, name: str) -> None:
        self.name = name
        self.keys = queue_keys(prefix, name)
        self.letters: Site | None = None


Word: TypeAlias = "str | bytes | Site"


class Ask:
    """One thing that is asked of the server, and what it said.

    Args:
        script: Which script does it.
        words: The operation and its arguments; a `Site` stands for itself.
        receive: Is told the answer as soon as it is there, before anybody else runs. False: it is
            no answer yet; the thing may be posted again.
        refuse: Is told the error, if there will be no answer.
        weight: How many bytes of values it has.

    Attributes:
        posted: Whether it is in line.
        sent: Whether it is under way.
        awaited: Whether somebody waits for the answer.
    """

    __slots__ = (
        "answer",
        "awaited",
        "error",
        "event",
        "posted",
        "receive",
        "refuse",
        "script",
        "sent",
        "weight",
        "words",
    )

    def __init__(
        self,
        script: str,
        *words: Word,
        receive: Callable[[Answer], bool | None] | None = None,
        refuse: Callable[[Exception], None] | None = None,
        weight: int = 0,
    ) -> None:
        self.script = script
        self.words = words
        self.receive = receive
        self.refuse = refuse
        self.weight = weight
        self.event = Event()
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.posted = False
        self.sent = False
        self.awaited = False

    @property
    def answered(self) -> bool:
        """Whether there is an answer, or there will be none."""
        return self.answer is not None or self.error is not None

    def accept(self, answer: Answer) -> None:
        """Here is the answer; or what came of it after all, when nobody counted on it any more."""
        self.sent = False
        is_answer = self.receive is None or self.receive(answer) is not False
        if is_answer and self.error is None:
            self.answer = answer
        self.wake()

    def fail(self, error: Exception) -> None:
        """There is no answer, and there will be none."""
        self.error = error
        if self.refuse is not None:
            self.refuse(error)
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
        self.event.set()
        if not self.answered:
            self.event = Event()


class Attendant(Protocol):
    """Somebody who waits for what others bring about."""

    event: Event
    """Set when there is something to look at."""

    @property
    def done(self) -> bool:
        """Whether it has come about."""

    def wake(self) -> None:
        """Let it look again."""


class Trip:
    """What is asked in one call of one script: all or nothing of it arrives.

    Attributes:
        number: The call's number. The server remembers the last one of each process, so that one
            whose reply was lost can be sent again, and is not done again.
        sent_at: When it was sent first, in seconds on the event loop's clock.
        in_doubt: Whether it may have been done, its answer being lost.
    """

    __slots__ = ("_letters", "_weight", "asks", "in_doubt", "number", "script", "sent_at", "sites")

    def __init__(self, script: str, number: int) -> None:
        self.script = script
        self.number = number
        self.asks: list[Ask] = []
        self.sites: dict[Site, int] = {}
        self.sent_at = 0.0
        self.in_doubt = False
        self._weight = 0
        self._letters: list[Site | None] = []  # of each site, as when the trip was packed

    def has_room_for(self, ask: Ask) -> bool:
        """Whether this may come along."""
        if not self.asks:
            return True
        return (
            ask.script == self.script
            and len(self.asks) < _MANY
            and self._weight + ask.weight <= _BULK
        )

    def add(self, ask: Ask) -> None:
        """Take something along."""
        self.asks.append(ask)
        self._weight += ask.weight
        ask.posted = False
        ask.sent = True
        for word in ask.words:
            if isinstance(word, Site):
                self._visit(word)

    def _visit(self, site: Site) -> int:
        index = self.sites.get(site)
        if index is None:
            index = self.sites[site] = len(self.sites) + 1
            self._letters.append(site.letters)
            if site.letters is not None:
                self._visit(site.letters)
        return index

    def keys(self, prefix: str) -> list[str]:
        """All the keys that it has to do with."""
        return [*broker_keys(prefix), *(key for site in self.sites for key in site.keys)]

    def arguments(self, process: str, offset: int, seed: int) -> Sequence[str | bytes]:
        """What the script is told."""
        sites = self.sites
        words: list[str | bytes] = [
            str(offset),
            str(seed),
            process,
            str(self.number),
            str(len(sites)),
        ]
        words += ["0" if each is None else str(sites[each]) for each in self._letters]
        words.append(str(len(self.asks)))
        words += [
            str(sites[word]) if isinstance(word, Site) else word
            for ask in self.asks
            for word in ask.words
        ]
        return words
