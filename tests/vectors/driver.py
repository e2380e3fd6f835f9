"""What drives an engine through vectors, and the engine that writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, Protocol

from leaseq import Backoff, Retry, Tenant
from leaseq._core.policies import longest_rest
from leaseq._core.requests import PutRequest
from leaseq._rules import moves
from leaseq._rules.moves import MOVES, OLD, Fate, ItemRecord, Move, Moved, Turns

Json = Any


class Driver(Protocol):
    """One queue of an engine, whose time stands still until it is moved.

    Times are whole seconds. Keys and values are plain, an end of a lease names its key alone.
    """

    def open(self, queue: Mapping[str, Json]) -> None:
        """Begin with an empty queue, at the time 0.

        Args:
            queue: ``max_deliveries``, ``backoff`` (base, factor, ceiling), ``dedupe_for``, ``fate``
                (what a burial comes to) and ``tenants`` (weight and cap, by name).
        """

    def put(self, key: str, value: int, **terms: Json) -> str:
        """Put a key, and return the outcome, or why it was refused."""

    def claim(
        self,
        *,
        key: str | None = None,
        tenants: list[str | None] | None = None,
        lease: int | None = None,
    ) -> str | None:
        """Lease an item as the consumer "c", and return its key."""

    def end(self, how: str, key: str, **options: Json) -> None:
        """End the lease on a key: ack, release, fail, reject, give_back or undo."""

    def extend(self, key: str, seconds: int) -> None:
        """Set a lease's deadline."""

    def set_tenant(self, name: str | None, weight: float, cap: int | None) -> None:
        """Give a tenant another weight and cap."""

    def pause(self, tenant: str | None) -> None:
        """Pause a tenant, or the whole queue."""

    def resume(self, tenant: str | None) -> None:
        """Let a tenant, or the whole queue, go on."""

    def wait(self, seconds: int) -> None:
        """Let time pass, and then do all that is due in one step."""

    def release_all(self) -> None:
        """End all leases of the consumer "c"."""

    def close(self) -> None:
        """End all leases as the handle that holds them closes."""

    def drain(self) -> None:
        """Drop all that waits."""

    def discard(self, key: str) -> bool:
        """Drop a key that waits; False: it does not."""

    def cancel(self, key: str, *, keep_successor: bool = False) -> bool:
        """Cancel the item of a key; False: there is none, or it was cancelled before.

        From then on an end of its lease, `end`, is refused, which frees the key.
        """

    def see(self, key: str) -> dict[str, Json] | None:
        """Return what there is of a key, as `seen` shows it; None: absent."""

    def line(self) -> list[str]:
        """Return the keys that are ready, those of one tenant in their order."""

    def letters(self) -> list[list[Json]]:
        """Return key, value and reason of those that died, in this order; not of dropped ones."""

    def counts(self) -> dict[str, int]:
        """Return those counters that are not 0."""


def seen(item: ItemRecord[int], now: float) -> dict[str, Json]:
    """Show an item in JSON: what is as usual is left out."""
    usual = ItemRecord(item.state, item.value)
    names = ("priority", "tenant", "deliveries", "cancellations", "expiries", "cancelled")
    shown: dict[str, Json] = {"state": item.state, "value": item.value}
    shown |= {n: getattr(item, n) for n in names if getattr(item, n) != getattr(usual, n)}
    if item.state == "delayed":
        shown["due"] = whole(item.due)
    if item.not_before > now:
        shown["rests_until"] = whole(item.not_before)
    if item.expires != inf and item.state != "leased":
        shown["expires"] = whole(item.expires)
    if item.after is not None:
        after = item.after
        shown["after"] = {"value": after.value, "priority": after.priority}
        if after.buffered:
            expires = None if after.expires == inf else whole(after.expires)
            shown["after"] |= {"buffered": True, "due": whole(after.due), "expires": expires}
    return shown


def whole(seconds: float) -> int | float:
    """Return a time as an int, if it is one."""
    return int(seconds) if seconds == int(seconds) else round(seconds, 6)


def do(driver: Driver, step: list[Json]) -> Json:
    """Take one step: a verb, its arguments, and its options in an object at the end."""
    verb, *arguments = step
    options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    if verb in ("ack", "release", "fail", "reject", "give_back", "undo"):
        return driver.end(verb, *arguments, **options)
    return getattr(driver, verb)(*arguments, **options)


def retry_of(queue: Mapping[str, Json]) -> Retry:
    """Return the retry policy of a queue in a vector."""
    backoff = queue.get("backoff")
    return Retry(queue.get("max_deliveries"), None if backoff is None else Backoff(*backoff))


class Reference:
    """The engine that writes the vectors: `moves` and a few dictionaries, and no more."""

    def open(self, queue: Mapping[str, Json]) -> None:
        self.now = 0.0
        self.retry = retry_of(queue)
        self.dedupe_for = queue.get("dedupe_for", 0)
        self.fate: Fate = queue.get("fate", "dead")
        self.items: dict[str, ItemRecord[int]] = {}
        self.ranks: dict[str, int] = {}  # of what is ready
        self.numbers: dict[str, int] = {}  # of what has a timer
        self.leases: dict[str, tuple[float, int]] = {}  # deadline and token
        self.done: dict[str, float] = {}
        self.token = self.front = self.back = self.timers = 0
        self.dead: list[list[Json]] = []
        self.counter: Counter[str] = Counter()
        self.turns = Turns()
        self.fair = False
        self.paused: dict[str | None, None] = {}
        for name, (weight, cap) in queue.get("tenants", {}).items():
            self.set_tenant(name, weight, cap)

    def put(self, key: str, value: int, **options: Json) -> str:
        terms, item = PutRequest(**options), self.items.get(key)
        if item is None:
            duplicate = self.done.get(key, 0) > self.now
            moved = moves.put_on_absent(value, terms, self.now, duplicate=duplicate)
        else:
            why = moves.refusal(item.tenant, terms, leased=item.state == "leased")
            if why is not None:
                return why
            leased = item.state == "leased"
            put = moves.put_on_leased if leased else moves.put_on_waiting
            moved = put(item, value, terms, self.now)
        assert moved.outcome is not None
        self._apply(key, moved)
        return str(moved.outcome)

    def claim(
        self,
        *,
        key: str | None = None,
        tenants: list[str | None] | None = None,
        lease: int | None = None,
    ) -> str | None:
        if None in self.paused:
            return None
        firsts = {self.items[k].tenant: k for k in reversed(self.line())}
        competing = {t for t in firsts if self.turns.of(t).competing}
        wanted = competing if tenants is None else competing & {*tenants}
        if key is None and wanted:
            ranks = {tenant: self.ranks[firsts[tenant]] for tenant in wanted}
            key = firsts[moves.next_tenant(self.turns, ranks, tenants)]
            restricted = tenants is not None
        elif key is not None and key in self.ranks and self.items[key].tenant in competing:
            restricted = True
        else:
            return None
        item = self.items[key]
        self.turns = moves.handed_out(self.turns, item.tenant, restricted=restricted)
        del self.ranks[key]
        self.numbers.pop(key, None)
        self.token += 1
        self.leases[key] = (inf if lease is None else self.now + lease, self.token)
        leased = moves.after_hand_out(item).item
        assert leased is not None
        self.items[key] = leased
        return key

    def end(self, how: str, key: str, **options: Json) -> None:
        item = self.items[key]
        if item.cancelled:
            self._apply(key, moves.after_wind_up(item, self.now))
        elif how == "ack":
            self.done[key] = self.now + self.dedupe_for
            self._apply(key, moves.after_ack(item, self.now))
        elif how == "reject":
            self._die(key, MOVES["reject"], options["reason"])
        elif how == "give_back":
            self._apply(key, moves.after_give_back(item, self.now))
        elif how == "undo":
            self._apply(key, moves.after_undo(item, self.now))
        elif options.get("counted", True) and self.retry.exhausted(item.deliveries):
            self._die(key, MOVES["fail"], "max_deliveries")
        else:
            rest = self._rest(item)
            self._apply(key, moves.after_release(item, self.now, rest=rest, **options))

    def extend(self, key: str, seconds: int) -> None:
        if not self.items[key].cancelled:
            self.leases[key] = (self.now + seconds, self.leases[key][1])

    def set_tenant(self, name: str | None, weight: float, cap: int | None) -> None:
        self._begin()
        self.turns = moves.reweighed(self.turns, name, Tenant(weight, cap))

    def pause(self, tenant: str | None) -> None:
        self.paused[tenant] = None
        if tenant is not None:
            self.turns = moves.paused(self.turns, tenant)

    def resume(self, tenant: str | None) -> None:
        if tenant in self.paused and tenant is not None:
            self.turns = moves.resumed(self.turns, tenant)
        self.paused.pop(tenant, None)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        while due := min(self._due(), default=None):
            time, kind, _, key = due
            if time > self.now:
                break
            if kind == 0:
                self._lose(key, MOVES["expire"])
            elif self.items[key].expires <= self.now:
                self._die(key, MOVES["outlive"], "expired")
            else:
                self._apply(key, moves.after_due(self.items[key], self.now))

    def release_all(self) -> None:
        for key in sorted(self.leases, key=lambda key: self.leases[key][1]):
            self._lose(key, MOVES["revoke"])

    def close(self) -> None:
        for key in sorted(self.leases, key=lambda key: self.leases[key][1]):
            item = self.items[key]
            after = moves.after_wind_up if item.cancelled else moves.after_close
            self._apply(key, after(item, self.now))

    def drain(self) -> None:
        for key in [*self.items]:
            self.discard(key)

    def discard(self, key: str) -> bool:
        item = self.items.get(key)
        if item is None or item.state == "leased":
            return False
        self._apply(key, Moved(MOVES["drain"], None, counts=MOVES["drain"].counts))
        return True

    def cancel(self, key: str, *, keep_successor: bool = False) -> bool:
        item = self.items.get(key)
        if item is None:
            return False
        moved = moves.after_cancel(item, keep_successor=keep_successor)
        if item.cancelled and not moved.counts:
            return False
        self._apply(key, moved)
        return True

    def see(self, key: str) -> dict[str, Json] | None:
        item = self.items.get(key)
        return None if item is None else seen(item, self.now)

    def line(self) -> list[str]:
        return sorted(self.ranks, key=lambda key: (-self.items[key].priority, self.ranks[key]))

    def letters(self) -> list[list[Json]]:
        return self.dead

    def counts(self) -> dict[str, int]:
        taken_back = self.counter["undone"] + self.counter["given_back"]
        counts = {**self.counter, "delivered": self.token - taken_back}
        return {
            name: count
            for name, count in sorted(counts.items())
            if count and name not in ("undone", "outlived")
        }

    def _rest(self, item: ItemRecord[int]) -> float:
        backoff = self.retry.backoff
        if backoff is None:
            return 0.0
        return longest_rest(backoff, item.deliveries)

    def _due(self) -> list[tuple[float, int, int, str]]:
        due = [(deadline, 0, token, key) for key, (deadline, token) in self.leases.items()]
        for key, number in self.numbers.items():
            item = self.items[key]
            time = min(item.due, item.expires) if item.state == "delayed" else item.expires
            due.append((time, 1, number, key))
        return due

    def _lose(self, key: str, cause: Move) -> None:
        item = self.items[key]
        if item.cancelled:
            self._apply(key, moves.after_wind_up(item, self.now))
            return
        if self.retry.exhausted(item.deliveries):
            self._die(key, cause, "max_deliveries")
            return
        lose = moves.after_expiry if cause.name == "expire" else moves.after_revocation
        self._apply(key, lose(item, self.now, self._rest(item)))

    def _die(self, key: str, cause: Move, reason: str) -> None:
        item = self.items[key]
        if self.fate == "dead":
            self.dead.append([key, moves.newest_value(item), reason])
        rest = moves.unburied_rest(self.retry)
        self._apply(key, moves.after_death(cause, item, self.now, self.fate, rest))

    def _begin(self) -> None:
        """Begin to count turns, with the first tenant."""
        if self.fair:
            return
        self.fair = True
        self.turns = Turns()
        for tenant in self.paused.keys() - {None}:
            self.turns = moves.paused(self.turns, tenant)
        for key in self.ranks:
            self.turns = moves.arrived(self.turns, self.items[key].tenant)
        account = replace(self.turns.of(None), in_flight=len(self.leases))
        self.turns = Turns(0, {**self.turns.accounts, None: account})

    def _apply(self, key: str, moved: Moved[int]) -> None:
        old, new = self.items.get(key), moved.item
        was = "absent" if old is None else old.state
        self.counter.update(moved.counts)
        if new is not None:
            self.items[key] = new
            if new.state == "leased":
                return
        token = 0
        if was == "leased":
            token = self.leases.pop(key)[1]
            self.turns = moves.ended(self.turns, None if old is None else old.tenant)
        elif was == "ready" and (new is None or moved.place or new.state != "ready"):
            del self.ranks[key]
            self.turns = moves.left(self.turns, None if old is None else old.tenant)
        if new is None:
            self.items.pop(key, None)
            self.numbers.pop(key, None)
            return
        goes_on = moved.move.event == "put" or moved.move.name == "due"
        number = self.numbers.pop(key, 0) if goes_on else 0
        if new.state == "delayed" or new.expires != inf:
            self.timers += not number
            self.numbers[key] = number or self.timers
        if new.state == "ready" and moved.place:
            if new.tenant is not None:
                self._begin()
            self.front -= moved.place == "front"
            self.back += moved.place == "back"
            self.ranks[key] = {
                "front": self.front - OLD,
                "old": token - OLD,
                "back": self.back,
            }[moved.place]
            self.turns = moves.arrived(self.turns, new.tenant)
