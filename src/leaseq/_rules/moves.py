"""The rules as data: each move of an item, and what it does. Sans-IO.

Everything that decides where a key goes is in this file. `MOVES` is the table of all moves; the
table in the ledger's theory of operation and the one in the documentation are written from it.
The functions choose a row of the table by its condition and compute the item that results, from
frozen records and plain numbers alone: `after_release`, `after_expiry`, `put_on_waiting` and so
on. They draw nothing, raise nothing and change nothing; the draw of a policy and the fate of an
item that dies are arguments.

The ledger calls them, except where a plain put, claim or ack would be slowed down; there it is
checked against them. Vectors for every other engine are written from them too (`tests/vectors`).

The second half is about the turns of tenants. `schedule.py` explains the algorithm and does the
same in O(log tenants); here it is as short as possible.

Two orders hold on every engine:

- Of tenants with equal tags, the one whose next item arrived first has the turn: the one whose
  next item has the lower *rank*. Items at the back have positive ranks, in the order in which they
  became ready; those at their old place have negative ones, by the token of their last lease; those
  at the front have still lower ones, the last first.
- What falls due in one step comes by its time, and of equal times leases come first, in the order
  of their hand-outs, then waiting items in the order in which they were put: by the *number* that
  an item is given with its first timer, and keeps while it waits, however often it is put again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace
from math import inf
from typing import Any, Generic, Literal, TypeVar

from .._core.messages import key_in_flight, tenant_mismatch
from .._core.policies import Priority, Retry, Tenant
from .._core.reports import Ended, KeyState, Paused, PutOutcome
from .._core.requests import PutRequest
from .._core.values import plain_value

V = TypeVar("V")

Place = Literal["front", "back", "old"]
Fate = Literal["dead", "dropped", "kept"]
Refusal = Literal["in_flight", "tenant"]
Counter = Literal[
    "acked", "released", "expired", "given_back", "cancelled", "dead", "dropped", "superseded",
    "outlived", "undone",
]  # fmt: skip

NORMAL = int(Priority.NORMAL)
OLD = 1 << 62
"""The last token of an item at its old place, minus its rank."""

UNBURIED = 60.0  # seconds until an item that could not be buried is tried again, without a backoff
UNDECIDED = 60.0  # seconds of rest after an end of which the retry policy could not judge


# The table


@plain_value
class Move:
    """A row of the table: a state, an event and a condition, and their effect."""

    name: str
    state: str
    """The state of the key before: a state, or "waiting", which is ready or delayed."""
    event: str
    when: str
    """The condition; empty: always, unless another row of the same event holds."""
    to: str
    """The state of the key after: a state, "waiting", or "same"."""
    place: Place | None = None
    """The place in the line, if it joins one."""
    ended: Ended | None = None
    """The end of the lease, if there was one."""
    counts: tuple[Counter, ...] = ()
    """The counters that go up."""
    counted: bool = True
    """False: the delivery does not count."""
    note: str = ""
    told: str = ""
    """The event in the words of the documentation; empty: it is not in its table."""


_ROWS = (
    Move("put", "absent", "put", "", "ready", "back", note="at the back of its priority's line"),
    Move("put_later", "absent", "put", "with a delay", "delayed"),
    Move(
        "put_duplicate", "absent", "put", "acknowledged within dedupe_for", "absent",
        note="a duplicate: nothing was put",
    ),
    Move(
        "replace", "waiting", "put", "", "same",
        note="value replaced, place kept; a time to live starts anew",
    ),
    Move(
        "replace_raise", "waiting", "put", "with a higher priority", "same", "back",
        note="at the back of that priority's line",
    ),
    Move(
        "replace_later", "waiting", "put", "due by reschedule", "waiting", "back",
        note='at the earlier time, or with "latest" at the new one; never before its rest is over',
    ),
    Move("update", "leased", "put", '"update"', "leased", note="the value is kept for the return"),
    Move(
        "buffer", "leased", "put", '"buffer"', "leased",
        note="one successor waits for the end of the lease, the latest",
    ),
    Move("refuse", "leased", "put", '"reject"', "leased", note="refused"),
    Move("due", "delayed", "tick", "it is due", "ready", "back"),
    Move(
        "outlive", "waiting", "tick, claim", "its time to live is over", "absent",
        counts=("outlived",), note='a dead letter, "expired"',
    ),
    Move("claim", "ready", "claim", "", "leased", note="a new token, one more delivery"),
    Move(
        "ack", "leased", "ack", "", "absent", ended="acked", counts=("acked",),
        note="done; an update that came meanwhile is dropped",
    ),
    Move(
        "fail", "leased", "release", "", "waiting", "back", "released", ("released",),
        note="by the retry policy, at the back",
        told="the body raises, or `release()`",
    ),
    Move(
        "release_later", "leased", "release", "with a delay", "delayed", "back", "released",
        ("released",), told="`release(delay=...)`",
    ),
    Move(
        "release_front", "leased", "release", "to the front", "ready", "front", "released",
        ("released",), told="`release(requeue_front=True)`",
    ),
    Move(
        "release_uncounted", "leased", "release", "uncounted", "ready", "back", "released",
        ("released", "undone"), counted=False, note="at the back; or delayed, as was asked for",
        told="`release(counted=False)`",
    ),
    Move(
        "expire", "leased", "tick", "its lease is over", "ready", "old", "lost", ("expired",),
        note="at its old place", told="the lease expires",
    ),
    Move(
        "expire_again", "leased", "tick", "its lease is over, again", "waiting", "back", "lost",
        ("expired",), note="by the retry policy: it may be what kills its workers",
        told="the lease expires, not for the first time",
    ),
    Move(
        "revoke", "leased", "release_all", "", "ready", "old", "lost", ("released",),
        note="as if its lease had expired",
    ),
    Move(
        "revoke_again", "leased", "release_all", "lost before", "waiting", "back", "lost",
        ("released",), note="as if its lease had expired again",
    ),
    Move(
        "give_back", "leased", "give_back", "", "ready", "old", "released", ("given_back",),
        counted=False, note="at its old place, uncounted", told="the body is cancelled",
    ),
    Move(
        "give_back_again", "leased", "give_back", "again in a row", "ready", "back", "released",
        ("given_back",), counted=False, note="at the back, uncounted",
        told="the body is cancelled, not for the first time in a row",
    ),
    Move(
        "undo", "leased", "undo", "", "ready", "old", "released", ("undone",), counted=False,
        note="as if it had never been handed out",
    ),
    Move(
        "close", "leased", "close", "", "ready", "old", "lost", ("undone",), counted=False,
        note="at its old place, uncounted", told="the queue is closed",
    ),
    Move("reject", "leased", "reject", "", "absent", ended="rejected", note="a dead letter"),
    Move(
        "last", "leased", "any that counts", "at the last delivery", "absent",
        note='a dead letter, "max_deliveries"',
    ),
    Move(
        "keep", "waiting, leased", "any death", "it cannot be buried", "delayed", "back",
        note="it dies again later, and is never lost",
    ),
    Move("drain", "waiting", "drain, discard", "", "absent", counts=("dropped",), note="dropped"),
    Move("cancel", "waiting", "cancel", "", "absent", counts=("cancelled",), note="dropped"),
    Move(
        "cancel_lease", "leased", "cancel", "", "leased", ended="cancelled",
        note="the lease has ended, and the key stays leased until its holder has cleaned up",
    ),
    Move(
        "wind_up", "leased", "any end", "it was cancelled", "absent", ended="cancelled",
        counts=("cancelled",), note="nothing is tried again",
    ),
    Move("take_out", "ready", "redrive", "", "absent", counts=("acked",), note="moved elsewhere"),
)  # fmt: skip

MOVES: Mapping[str, Move] = {row.name: row for row in _ROWS}
"""All the moves there are, by name.

Where a successor was buffered, it takes the item's place in each of the moves out of *leased*, with
fresh counts: after an ack, a death or a cancellation as a second item of the key; otherwise the
first one is *superseded*.
"""


# Items


@plain_value
class Successor(Generic[V]):
    """A value put while its key was leased: an update of the leased item, or a buffered item."""

    value: V
    priority: int
    buffered: bool = False
    due: float = -inf
    expires: float = inf


@plain_value
class ItemRecord(Generic[V]):
    """An item as the rules see it. Times are seconds on one clock."""

    state: KeyState
    value: V
    priority: int = NORMAL
    tenant: str | None = None
    deliveries: int = 0
    """Hand-outs that count; of a leased item the present one included."""
    cancellations: int = 0
    """Cancelled hand-outs in a row."""
    expiries: int = 0
    """Leases on it that were lost."""
    due: float = -inf
    """The time at which it is ready, if it is delayed."""
    not_before: float = -inf
    """The earliest due time that a put may set: it rests after a failure."""
    expires: float = inf
    """The end of its time to live, which a lease removes and `undo` restores."""
    after: Successor[V] | None = None
    cancelled: bool = False
    """True: its lease has ended by a cancellation, and its holder has not."""


@plain_value
class Moved(Generic[V]):
    """The effect of a move on an item."""

    move: Move
    item: ItemRecord[V] | None
    """The key's item after the move; None: it is absent."""
    place: Place | None = None
    """The place at which it joins the line; None: it does not, or keeps its place."""
    counts: tuple[Counter, ...] = ()
    """The counters that go up."""
    ended: Ended | None = None
    """The end of the lease, if there was one."""
    outcome: PutOutcome | None = None


def refusal(tenant: str | None, terms: PutRequest, *, leased: bool) -> Refusal | None:
    """Return the reason to refuse a put on a present key of this tenant; None: it is accepted."""
    if leased and terms.if_in_flight == "reject":
        return "in_flight"
    if terms.tenant not in (None, tenant):
        return "tenant"
    return None


def check_put_on(key: object, tenant: str | None, terms: PutRequest, *, leased: bool) -> None:
    """Raise the error for a put that is refused on a present key of this tenant."""
    why = refusal(tenant, terms, leased=leased)
    if why is not None:
        raise put_error(why, key, tenant, terms)


def put_error(why: Refusal, key: object, tenant: str | None, terms: PutRequest) -> Exception:
    """Return the error for a put that is refused."""
    if why == "in_flight":
        return key_in_flight(key)
    return tenant_mismatch(key, tenant, terms.tenant)


def put_on_absent(value: V, terms: PutRequest, now: float, *, duplicate: bool = False) -> Moved[V]:
    """Put a key that is absent; ``duplicate``: it was acknowledged within ``dedupe_for``."""
    if duplicate:
        return Moved(MOVES["put_duplicate"], None, outcome=PutOutcome.DUPLICATE)
    item = ItemRecord(
        "ready",
        value,
        NORMAL if terms.priority is None else terms.priority,
        terms.tenant,
        expires=now + terms.ttl,
    )
    item = _waiting(item, now, now + terms.delay)
    move = MOVES["put" if item.state == "ready" else "put_later"]
    return Moved(move, item, _place_of(item, move.place), outcome=PutOutcome.ADDED)


def put_on_waiting(item: ItemRecord[V], value: V, terms: PutRequest, now: float) -> Moved[V]:
    """Put a key that waits: replace its value, and keep its place unless it has to move.

    A higher priority joins the back of that priority's line. A time to live starts anew. The due
    time becomes the earlier one, or with "latest" the new one; never before the rest is over.
    """
    delayed = item.state == "delayed"
    due = -inf
    if terms.reschedule == "latest":
        due = now + terms.delay
    elif delayed:
        due = min(item.due, now + terms.delay)
    due = max(due, item.not_before)
    higher = terms.priority is not None and terms.priority > item.priority
    item = replace(
        item,
        value=value,
        priority=terms.priority if higher and terms.priority is not None else item.priority,
        expires=item.expires if terms.ttl == inf else now + terms.ttl,
    )
    if not (delayed or higher or due > now):
        return Moved(MOVES["replace"], item, outcome=PutOutcome.REPLACED)
    move = MOVES["replace_later" if delayed or due > now else "replace_raise"]
    item = _waiting(item, now, due)
    return Moved(move, item, _place_of(item, move.place), outcome=PutOutcome.REPLACED)


def put_on_leased(item: ItemRecord[V], value: V, terms: PutRequest, now: float) -> Moved[V]:
    """Put a key that is leased, as an update of its item or as its one buffered successor.

    A cancelled item does not come back, so it has no updates: any value put is its successor.
    """
    after = item.after or Successor(value, item.priority)
    priority = after.priority if terms.priority is None else max(after.priority, terms.priority)
    after = replace(after, value=value, priority=priority)
    if terms.if_in_flight == "update" and not after.buffered and not item.cancelled:
        item = replace(item, after=after)
        return Moved(MOVES["update"], item, outcome=PutOutcome.UPDATED_IN_FLIGHT)
    due = now + terms.delay
    if after.buffered and terms.reschedule == "earliest":
        due = min(after.due, due)
    expires = after.expires if terms.ttl == inf else now + terms.ttl
    after = replace(after, buffered=True, due=due, expires=expires)
    item = replace(item, after=after)
    return Moved(MOVES["buffer"], item, outcome=PutOutcome.BUFFERED)


def after_buffer(item: ItemRecord[V], after: Successor[V], now: float) -> ItemRecord[V]:
    """Make the item of a buffered successor, when the lease on the one before it has ended."""
    fresh = ItemRecord("ready", after.value, after.priority, item.tenant, expires=after.expires)
    return _waiting(fresh, now, after.due)


def after_due(item: ItemRecord[V], now: float) -> Moved[V]:
    """Make a delayed item ready that has fallen due."""
    move = MOVES["due"]
    return Moved(move, _waiting(item, now, -inf), move.place)


def after_hand_out(item: ItemRecord[V]) -> Moved[V]:
    """Lease an item that is ready."""
    leased = replace(item, state="leased", deliveries=item.deliveries + 1)
    return Moved(MOVES["claim"], leased)


def after_ack(item: ItemRecord[V], now: float) -> Moved[V]:
    """Acknowledge an item: its buffered successor comes next, an update is dropped."""
    move = MOVES["ack"]
    after = item.after
    if after is None or not after.buffered:
        return Moved(move, None, None, move.counts, move.ended)
    fresh = after_buffer(item, after, now)
    return Moved(move, fresh, _place_of(fresh, "back"), move.counts, move.ended)


def unburied_rest(retry: Retry) -> float:
    """Return the rest of an item that could not be buried, in seconds."""
    return UNBURIED if retry.backoff is None else retry.backoff.ceiling


def after_release(
    item: ItemRecord[V],
    now: float,
    *,
    front: bool = False,
    delay: float | None = None,
    counted: bool = True,
    rest: float = 0.0,
) -> Moved[V]:
    """Release an item to the back of its line, to the front, or to rest.

    Args:
        item: The leased item; if it counts, not at its last delivery: then it dies (`after_death`).
        now: The time.
        front: True: it goes to the front.
        delay: Seconds for which it rests; None: ``rest``.
        counted: True: the hand-out counts.
        rest: The rest by the retry policy, in seconds, if it applies.
    """
    if not counted:
        move = MOVES["release_uncounted"]
    elif front:
        move = MOVES["release_front"]
    else:
        move = MOVES["fail" if delay is None else "release_later"]
    if delay is None:
        delay = rest if counted and not front else 0.0
    deliveries = item.deliveries - (not move.counted)
    again = replace(item, deliveries=deliveries, cancellations=0, expires=inf)
    return _back(move, again, now, "front" if front else "back", delay)


def after_expiry(item: ItemRecord[V], now: float, rest: float = 0.0) -> Moved[V]:
    """Return an item to the line whose lease expired: the first time to its old place.

    Args:
        item: The leased item; not at its last delivery: then it dies (`after_death`).
        now: The time.
        rest: The rest by the retry policy, in seconds, if a lease on it was lost before.
    """
    return _lost(MOVES["expire"], MOVES["expire_again"], item, now, rest)


def after_revocation(item: ItemRecord[V], now: float, rest: float = 0.0) -> Moved[V]:
    """End a lease of a consumer that is gone, as if it had expired."""
    return _lost(MOVES["revoke"], MOVES["revoke_again"], item, now, rest)


def _lost(first: Move, later: Move, item: ItemRecord[V], now: float, rest: float) -> Moved[V]:
    move = later if item.expiries else first
    again = replace(item, cancellations=0, expiries=item.expiries + 1, expires=inf)
    return _back(move, again, now, move.place, rest if item.expiries else 0.0)


def after_give_back(item: ItemRecord[V], now: float) -> Moved[V]:
    """Take back, uncounted, an item whose consumer was cancelled: at first to its old place."""
    move = MOVES["give_back_again" if item.cancellations else "give_back"]
    again = replace(
        item,
        deliveries=item.deliveries - 1,
        cancellations=item.cancellations + 1,
        expires=inf,
    )
    return _back(move, again, now, move.place)


def after_undo(item: ItemRecord[V], now: float) -> Moved[V]:
    """Take back a hand-out that its consumer never saw; its time to live goes on."""
    move = MOVES["undo"]
    return _back(move, replace(item, deliveries=item.deliveries - 1), now, move.place)


def after_close(item: ItemRecord[V], now: float) -> Moved[V]:
    """End a lease because the queue, or the handle on it, is closed."""
    move = MOVES["close"]
    again = replace(item, deliveries=item.deliveries - 1, expires=inf)
    return _back(move, again, now, move.place)


def after_death(
    cause: Move, item: ItemRecord[V], now: float, fate: Fate, rest: float = 0.0
) -> Moved[V]:
    """Give an item up.

    Args:
        cause: The move that it dies of, for the counters and the end of its lease.
        item: The item, leased or waiting.
        now: The time.
        fate: A dead letter, or dropped; or kept, because neither is possible: then it is delayed
            and dies again later.
        rest: Seconds of that delay.
    """
    if fate == "kept":
        again = replace(item, cancellations=0, expires=inf)
        kept = _back(MOVES["keep"], again, now, "back", rest)
        return replace(kept, counts=cause.counts + kept.counts, ended=cause.ended)
    move = cause if cause.to == "absent" else MOVES["last"]
    counts = (*cause.counts, fate)
    after = item.after
    if after is None or not after.buffered:
        return Moved(move, None, None, counts, cause.ended)
    fresh = after_buffer(item, after, now)
    return Moved(move, fresh, _place_of(fresh, "back"), counts, cause.ended)


def after_cancel(item: ItemRecord[V], *, keep_successor: bool = False) -> Moved[V]:
    """Drop a waiting item; or end the lease of a leased one, which keeps its key for now.

    Args:
        item: The item.
        keep_successor: True: a buffered successor stays. An update never does.
    """
    if item.state != "leased":
        move = MOVES["cancel"]
        return Moved(move, None, counts=move.counts)
    move, after = MOVES["cancel_lease"], item.after
    is_buffered = after is not None and after.buffered
    if is_buffered and keep_successor:
        return Moved(move, replace(item, cancelled=True), ended=move.ended)
    counts: tuple[Counter, ...] = ("cancelled",) if is_buffered else ()
    return Moved(move, replace(item, cancelled=True, after=None), None, counts, move.ended)


def after_wind_up(item: ItemRecord[V], now: float) -> Moved[V]:
    """Free the key of a cancelled item, however its holder has ended: its successor comes next."""
    move = MOVES["wind_up"]
    if item.after is None:
        return Moved(move, None, None, move.counts, move.ended)
    fresh = after_buffer(item, item.after, now)
    return Moved(move, fresh, _place_of(fresh, "back"), move.counts, move.ended)


def newest_value(item: ItemRecord[V]) -> V:
    """Return the value to bury of an item that dies: its update's, or its own."""
    after = item.after
    return item.value if after is None or after.buffered else after.value


def _back(
    move: Move, item: ItemRecord[V], now: float, place: Place | None, delay: float = 0.0
) -> Moved[V]:
    """Put the item of an ended lease back in the line, or its successor in its stead."""
    after = item.after
    if after is not None and after.buffered:
        fresh = after_buffer(item, after, now)
        counts: tuple[Counter, ...] = (*move.counts, "superseded")
        return Moved(move, fresh, _place_of(fresh, "back"), counts, move.ended)
    if after is not None:
        priority = max(item.priority, after.priority)
        item = replace(item, value=after.value, priority=priority, after=None)
    not_before = now + delay if delay > 0 else -inf
    item = _waiting(replace(item, not_before=not_before), now, now + delay)
    return Moved(move, item, _place_of(item, place), move.counts, move.ended)


def _place_of(item: ItemRecord[V], place: Place | None) -> Place | None:
    return place if item.state == "ready" else None


def _waiting(item: ItemRecord[V], now: float, due: float) -> ItemRecord[V]:
    if due > now:
        return replace(item, state="delayed", due=due)
    return replace(item, state="ready", due=-inf)


# Turns

SHARE = 1 << 20  # the weight 1.0, as an integer
ITEM = 1 << 80  # the cost of one item at a weight of one 2**20th


def shares_of(weight: float) -> int:
    """Return a weight as a whole number."""
    return max(1, round(weight * SHARE))


def cost_of(shares: int) -> int:
    """Return the virtual time that one item of a tenant takes."""
    return ITEM // shares


@plain_value
class Account:
    """A tenant's ready and leased items, and the start of its next turn."""

    shares: int = SHARE
    cap: int | None = None
    ready: int = 0
    in_flight: int = 0
    start: int = 0
    competing: bool = False
    paused: bool = False

    @property
    def finish(self) -> int:
        """The virtual time at which its next item ends."""
        return self.start + cost_of(self.shares)

    @property
    def may_compete(self) -> bool:
        """True if it has something ready, is under its cap, and is not paused."""
        return self.slots > 0

    @property
    def slots(self) -> int:
        """The number of its items that can be handed out."""
        if self.paused:
            return 0
        return (
            self.ready if self.cap is None else max(0, min(self.ready, self.cap - self.in_flight))
        )


@plain_value
class Turns:
    """The virtual time, and all tenants' accounts."""

    virtual: int = 0
    accounts: Mapping[str | None, Account] = field(default_factory=dict)

    def of(self, tenant: str | None) -> Account:
        """Return a tenant's account."""
        return self.accounts.get(tenant, Account())


def arrived(turns: Turns, tenant: str | None) -> Turns:
    """Count an item that has become ready."""
    account = turns.of(tenant)
    return _settled(turns, tenant, replace(account, ready=account.ready + 1))


def left(turns: Turns, tenant: str | None) -> Turns:
    """Count an item that is no longer ready, without a hand-out."""
    account = turns.of(tenant)
    return _settled(turns, tenant, replace(account, ready=account.ready - 1))


def handed_out(turns: Turns, tenant: str | None, *, restricted: bool = False) -> Turns:
    """Charge a tenant for an item that is handed out.

    The virtual time moves on by one item over the shares of all that compete; but not if the item
    was asked for by its tenant or its key (``restricted``), since the others must not pay for it.
    """
    if not restricted:
        turns = caught_up(turns)
        shares = sum(each.shares for each in turns.accounts.values() if each.competing)
        turns = replace(turns, virtual=turns.virtual - (-ITEM // shares))
    account = turns.of(tenant)
    account = replace(
        account,
        ready=account.ready - 1,
        in_flight=account.in_flight + 1,
        start=account.start + cost_of(account.shares),
    )
    account = replace(account, competing=account.may_compete)
    return replace(turns, accounts={**turns.accounts, tenant: account})


def ended(turns: Turns, tenant: str | None) -> Turns:
    """Count a lease that has ended."""
    account = turns.of(tenant)
    return _settled(turns, tenant, replace(account, in_flight=account.in_flight - 1))


def reweighed(turns: Turns, tenant: str | None, policy: Tenant) -> Turns:
    """Give a tenant another weight and cap, from its next hand-out on."""
    account = replace(
        turns.of(tenant),
        shares=shares_of(policy.weight),
        cap=policy.max_in_flight,
        competing=False,
    )
    turns = replace(turns, accounts={**turns.accounts, tenant: account})
    return _settled(turns, tenant, account)


def pause_of(was: Paused | None, reason: str, now: float) -> Paused:
    """Return a pause with this reason; one that goes on keeps its time.

    Args:
        was: The pause so far; None: there was none.
        reason: The reason.
        now: Seconds since the epoch.
    """
    return Paused(reason, now if was is None else was.since)


def paused(turns: Turns, tenant: str | None) -> Turns:
    """Let a tenant compete no more, as if it were at its cap."""
    return _settled(turns, tenant, replace(turns.of(tenant), paused=True))


def resumed(turns: Turns, tenant: str | None) -> Turns:
    """Let a tenant that was paused compete again."""
    return _settled(turns, tenant, replace(turns.of(tenant), paused=False))


def next_tenant(
    turns: Turns,
    ranks: Mapping[str | None, Any],
    among: Collection[str | None] | None = None,
) -> str | None:
    """Return the tenant whose turn it is; at least one must compete.

    Args:
        turns: The accounts.
        ranks: The rank of each tenant's next item.
        among: The tenants that were asked for; None: any. Among these the earliest finish is next,
            eligible or not.
    """
    turns = turns if among is not None else caught_up(turns)
    competing = [
        (account.finish, ranks[tenant], index, tenant)
        for index, (tenant, account) in enumerate(turns.accounts.items())
        if account.competing
        and (account.start <= turns.virtual if among is None else tenant in among)
    ]
    return min(competing)[3]


def _settled(turns: Turns, tenant: str | None, account: Account) -> Turns:
    """Begin or end a tenant's competing; back from idling, a cap or a pause it gets no credit."""
    if account.may_compete != account.competing:
        start = max(account.start, turns.virtual) if account.may_compete else account.start
        account = replace(account, start=start, competing=account.may_compete)
    return replace(turns, accounts={**turns.accounts, tenant: account})


def caught_up(turns: Turns) -> Turns:
    """Leap to the earliest start, when the virtual time is behind all that compete.

    That happens when a consumer asks for an item of any tenant, and only then: a consumer of some
    tenants must not make a newcomer wait.
    """
    starts = [account.start for account in turns.accounts.values() if account.competing]
    if not starts or min(starts) <= turns.virtual:
        return turns
    return replace(turns, virtual=min(starts))
