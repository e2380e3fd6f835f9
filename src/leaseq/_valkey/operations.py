"""The operations as the scripts take and answer them: one table. Sans-IO.

For each operation of the protocol the table has its name in Lua, its fields in the order in which
the script takes them, and the decoders of its answers. A test reads the Lua and checks that each
operation there takes just these fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from math import inf
from operator import attrgetter, itemgetter
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

from .._core.errors import ServerUnavailableError
from .._core.messages import Cancellation
from .._core.options import ANY_KEY, BrokerQueueOptions
from .._core.policies import Backoff, Retry, Tenant
from .._core.reports import (
    DeadLetter,
    HistoryEntry,
    LeaseInfo,
    Paused,
    PutOutcome,
    QueueInfo,
    Statistics,
    TenantStatistics,
)
from .._core.texts import failure_text
from .._core.values import plain_value
from .._remote import protocol
from .._remote.encoding import (
    decode_key,
    decode_want,
    encode_key,
    encode_name,
    encode_text,
    encode_value_name,
    encode_want,
    read_key,
    read_name,
    read_text,
)
from .._remote.protocol import Operation, RawKey, Settled
from .._remote.stored_options import read_options, write_options
from .server_errors import server_error
from .times import (
    NEVER,
    encode_finite_seconds,
    encode_optional_seconds,
    encode_seconds,
    read_seconds,
)

Word: TypeAlias = "str | bytes"
Raw: TypeAlias = list[Any]
"""An answer of a script: words, numbers and lists of these."""


class Queues(Protocol):
    """The queues of a call."""

    def number(self, queue: protocol.QueueRef) -> int:
        """Return the queue's number in the call, from 1."""
        ...


# Kinds of fields


@plain_value
class Kind:
    """A kind of fields: how the script takes it, and the function that encodes its value."""

    takes: Literal["queue", "text", "number", "span"]
    encode: Callable[[Any], Word]


def _as_it_is(word: Word) -> Word:
    return word


def _encode_count(number: float | None) -> bytes:
    return NEVER if number is None or number == inf else b"%d" % int(number)


QUEUE: Final = Kind("queue", _as_it_is)
WORD: Final = Kind("text", _as_it_is)
"""A word of a few, or bytes, that are taken as they are."""
TEXT: Final = Kind("text", encode_text)
KEY: Final = Kind("text", encode_key)
NAME: Final = Kind("text", encode_name)
VALUE_NAME: Final = Kind("text", encode_value_name)
WANT: Final = Kind("text", encode_want)
TOKEN: Final = Kind("text", b"%d".__mod__)
"""A whole number that is compared as it is."""
FLAG: Final = Kind("text", (b"0", b"1").__getitem__)
COUNT: Final = Kind("number", _encode_count)
LIMIT: Final = Kind("span", _encode_count)
"""A count that may be endless."""
REAL: Final = Kind("number", repr)
PRIORITY: Final = Kind("number", lambda priority: b"" if priority is None else b"%d" % priority)
LEASE: Final = Kind("span", encode_seconds)
DELAY: Final = Kind("number", encode_seconds)
"""A span of which -1 says that there is none, or that it has no end."""
OPTIONAL_DELAY: Final = Kind("number", encode_optional_seconds)
SPAN: Final = Kind("number", encode_finite_seconds)


# Fields


Write: TypeAlias = Callable[[Any, list[Word], Queues], None]
"""Adds the words of a value, of an operation or of a part of one."""


class Field:
    """A field of one word.

    Args:
        name: Its name, which is the one in the Lua.
        kind: Its kind.
        get: Returns its value; a string: the path of an attribute; left out: that of its name.
    """

    __slots__ = ("get", "kind", "name")

    def __init__(
        self, name: str, kind: Kind, get: Callable[[Any], Any] | str | None = None
    ) -> None:
        self.name = name
        self.kind = kind
        self.get = name if get is None else get


class QueueField:
    """A queue's number in the call."""

    __slots__ = ()

    name: Final = "queue"
    kind: Final = QUEUE


class EachQueue:
    """A queue, by its number in the call."""

    __slots__ = ()

    name: Final = ""
    kind: Final = QUEUE

    def write(self, value: Any, words: list[Word], queues: Queues) -> None:
        words.append(b"%d" % queues.number(value))


class Many:
    """A count, and the words of each of so many values.

    Args:
        fields: The words of each.
        get: Returns all; a string: the path of an attribute.
    """

    __slots__ = ("_get", "_write", "fields")

    def __init__(self, fields: tuple[Part, ...], get: Callable[[Any], Sequence[Any]] | str) -> None:
        self.fields = fields
        self._get = attrgetter(get) if isinstance(get, str) else get
        self._write = writer(fields)

    def write(self, value: Any, words: list[Word], queues: Queues) -> None:
        members = self._get(value)
        words.append(b"%d" % len(members))
        for member in members:
            self._write(member, words, queues)


class Choice:
    """A word that decides which words follow it.

    Args:
        name: Its name in the Lua.
        get: Returns the word.
        ways: The words that follow, for each.
    """

    __slots__ = ("_get", "_writers", "name", "ways")

    def __init__(
        self, name: str, get: Callable[[Any], str], ways: Mapping[str, tuple[Part, ...]]
    ) -> None:
        self.name = name
        self.ways = ways
        self._get = get
        self._writers = {way: writer(fields) for way, fields in ways.items()}

    def write(self, value: Any, words: list[Word], queues: Queues) -> None:
        way = self._get(value)
        words.append(way)
        self._writers[way](value, words, queues)


class Step:
    """A step of a transaction: the words of the operation that it stands for.

    One that is known to be impossible is an ack by a token that holds nothing, so that the server
    refuses all of them.
    """

    __slots__ = ()

    def write(self, value: Any, words: list[Word], queues: Queues) -> None:
        operation, instead = value
        if operation is None:
            operation = protocol.Ack(instead, "", 0)
        _STEPS[type(operation)].write(operation, words, queues)


Part: TypeAlias = "Field | QueueField | EachQueue | Many | Choice | Step"


def writer(parts: Sequence[Part]) -> Write:
    """Return one function that adds the words of all parts.

    It is compiled, as the methods of dataclasses are: a line for each part. A loop over the parts
    takes four times as long, and this is done for each item.
    """
    lines = ["def write(value, words, queues):"]
    names: dict[str, Any] = {}
    for number, part in enumerate(parts):
        if isinstance(part, QueueField):
            lines.append('    words.append(b"%d" % queues.number(value.queue))')
        elif isinstance(part, Field):
            got = f"value.{part.get}" if isinstance(part.get, str) else f"get{number}(value)"
            word = got if part.kind is WORD else f"encode{number}({got})"
            lines.append(f"    words.append({word})")
            names |= {f"get{number}": part.get, f"encode{number}": part.kind.encode}
        else:
            lines.append(f"    write{number}(value, words, queues)")
            names[f"write{number}"] = part.write
    exec("\n".join([*lines, "    return"]), names)
    return cast("Write", names["write"])


# Answers


Decode: TypeAlias = Callable[[Raw], object]


def _raised(raw: Raw) -> Exception:
    """Return the failure of one operation; the others of its call were done."""
    return server_error(raw[1].decode(errors="replace"))


_ALWAYS: Final[dict[bytes, Decode]] = {
    b"gone": lambda _: protocol.GoneError(),
    b"later": lambda _: protocol.LATER,
    b"raised": _raised,
}


@plain_value
class Layout:
    """An operation in the table.

    Attributes:
        name: Its name in the Lua.
        fields: Its words after that.
        write_fields: Adds the words of these.
        answers: The decoders of its answers, by their first word.
    """

    name: str
    fields: tuple[Part, ...]
    write_fields: Write = field(repr=False)
    answers: Mapping[bytes, Decode] = field(repr=False)

    def write(self, operation: Operation[Any], words: list[Word], queues: Queues) -> None:
        """Add the words of an operation, its name the first."""
        words.append(self.name)
        self.write_fields(operation, words, queues)

    def read(self, raw: Raw) -> object:
        """Return the answer that the script gave in these words, or the exception that it is."""
        try:
            return self.answers[raw[0]](raw)
        except Exception as error:  # it was done, and so were others
            return unreadable(self.name, error)


def unreadable(what: str, error: Exception) -> ServerUnavailableError:
    """Return the error for an answer that cannot be read."""
    doubt = f"the server's answer to {what!r} cannot be read: {failure_text(error)}"
    unread = ServerUnavailableError(doubt, in_doubt=True)
    unread.__cause__ = error
    return unread


def _layout(
    name: str, *fields: Part, ok: Decode, answers: Mapping[bytes, Decode] | None = None
) -> Layout:
    return Layout(name, fields, writer(fields), {b"ok": ok, **_ALWAYS, **(answers or {})})


def _none(_: Raw) -> None:
    return None


# Bodies


def _body(body: Any, letter: int) -> protocol.Body:
    """Return the body of an item: bytes, or the letter that it is."""
    if not letter:
        return cast("bytes", body)
    queue, key, inner, is_letter, token, reason, error, deliveries, *rest = body
    tenant, priority, died_at = rest[:3]  # a newer format may have more
    return DeadLetter(
        queue=read_text(queue),
        key=read_key(key),
        value=_body(inner, is_letter),
        token=int(token) if token else None,
        reason=read_text(reason),
        error=read_text(error) or None,
        deliveries=int(deliveries),
        tenant=read_name(tenant),
        priority=int(priority),
        died_at=int(died_at) / 1e6,
    )


# Puts


_OUTCOMES: Final = {
    b"a": PutOutcome.ADDED,
    b"r": PutOutcome.REPLACED,
    b"u": PutOutcome.UPDATED_IN_FLIGHT,
    b"d": PutOutcome.DUPLICATE,
    b"b": PutOutcome.BUFFERED,
}


def _outcomes(raw: Raw) -> tuple[PutOutcome, ...]:
    return tuple([_OUTCOMES[outcome] for outcome in raw[1:]])


_WHY: Final = {b"in_flight": "in_flight", b"tenant": "tenant", b"size": "size"}


def _put_refused(raw: Raw) -> protocol.PutRefused:
    _, why, index, *tenant = raw
    return protocol.PutRefused(
        index - 1,
        _WHY[why],  # type: ignore[arg-type]
        read_name(tenant[0]) if tenant else None,
    )


def _full(raw: Raw) -> protocol.Full:
    return protocol.Full(raw[1], raw[2] if len(raw) > 2 else None)


_PUT: Final = _layout(
    "put",
    QueueField(),
    Field("if_in_flight", WORD, "request.if_in_flight"),
    Field("priority", PRIORITY, "request.priority"),
    Field("tenant", NAME, "request.tenant"),
    Field("delay", DELAY, "request.delay"),
    Field("ttl", LEASE, "request.ttl"),
    Field("reschedule", WORD, "request.reschedule"),
    Field("behind", FLAG),
    Many((Field("key", KEY, itemgetter(0)), Field("body", WORD, itemgetter(1))), "items"),
    ok=_outcomes,
    answers={
        b"error": _put_refused,
        b"full": _full,
        b"never": lambda answer: protocol.NeverFits(answer[1]),
    },
)


# Claims


def _kind_of(claim: protocol.ClaimFor) -> str:
    if claim.request.key is not ANY_KEY:
        return "key"
    return "any" if claim.request.tenants is None else "tenants"


_EACH_NAME: Final = (Field("name", NAME, lambda name: name),)
_EACH_PARK: Final = (Field("want", WANT), Field("stamp", TOKEN))


def _delivery(fields: Raw) -> protocol.Delivery:
    key, body, token, priority, tenant, deliveries, cancellations, letter = fields
    return protocol.Delivery(
        read_key(key),
        _body(body, letter) if letter else body,
        int(token),
        priority,
        read_name(tenant) if tenant else None,
        deliveries,
        cancellations,
    )


def _pairs(flat: Raw) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _claimed(raw: Raw) -> protocol.Claimed:
    word, left, parks, *batches = raw
    return protocol.Claimed(
        tuple([tuple([_delivery(fields) for fields in batch]) for batch in batches]),
        left,
        tuple([protocol.Park(decode_want(want), stamp) for want, stamp in _pairs(parks)]),
        word == b"cut",
    )


_CLAIM: Final = _layout(
    "claim",
    QueueField(),
    Field("parks_too", FLAG, "parks"),
    Many(_EACH_PARK, "held"),
    Many(
        (
            Field("count", COUNT),
            Field("lease", LEASE, "request.lease_timeout"),
            Field("consumer", NAME, "request.consumer"),
            Field("patient", FLAG),
            Choice(
                "kind",
                _kind_of,
                {
                    "any": (),
                    "key": (Field("key", KEY, "request.key"),),
                    "tenants": (
                        Many(_EACH_NAME, "request.tenants"),
                        Many(_EACH_NAME, "request.steal_from"),
                    ),
                },
            ),
        ),
        "claims",
    ),
    ok=_claimed,
    answers={b"cut": _claimed},
)


# Settlements


_EACH_VALUE: Final = (
    Field("name", VALUE_NAME),
    Field("ttl", SPAN),
    Field("body", WORD),
    Field("instead", WORD),
)
_VALUES: Final = Many(_EACH_VALUE, "keep")
_LEASE_FIELDS: Final = (QueueField(), Field("key", KEY), Field("token", TOKEN))
_ERROR: Final = Field("err", TEXT, lambda operation: operation.error or "")


def _cancellation(raw: Raw) -> Cancellation:
    return Cancellation(read_text(raw[1]))


def _settlement(name: str, *fields: Part) -> Layout:
    return _layout(
        name,
        *_LEASE_FIELDS,
        *fields,
        ok=lambda _: Settled.DONE,
        answers={
            b"no": lambda _: Settled.NOT_HELD,
            b"cancelled": _cancellation,
            b"dropped": lambda _: Settled.UPDATE_DROPPED,
            b"not_kept": lambda _: Settled.NOT_KEPT,
        },
    )


_ACK: Final = _settlement("ack", _VALUES)
_RELEASE: Final = _settlement(
    "release", Field("front", FLAG), Field("delay", OPTIONAL_DELAY), Field("counted", FLAG), _ERROR
)
_REJECT: Final = _settlement(
    "reject", Field("reason", TEXT), _ERROR, _VALUES, Field("is_unread", FLAG, "unread")
)


# Kept values


def _recalled(raw: Raw) -> protocol.Recalled:
    return protocol.Recalled(raw[2] if len(raw) > 2 else None, bool(raw[1]))


# Transactions


_STEPS: Final[dict[type[Operation[Any]], Layout]] = {
    protocol.Put: _PUT,
    protocol.Ack: _ACK,
    protocol.Release: _RELEASE,
    protocol.Reject: _REJECT,
}


def _steps_of(operation: protocol.Transact) -> Sequence[Any]:
    return [(step, operation.queue) for step in operation.steps]


_WHY_NOT: Final = {
    **_WHY,
    b"gone": "gone",
    b"no": "not held",
    b"cancelled": "cancelled",
    b"twice": "twice",
    b"full": "full",
}


def _step_refused(number: int, why: bytes, what: Any) -> protocol.StepRefused:
    return protocol.StepRefused(
        number - 1,
        _WHY_NOT[why],  # type: ignore[arg-type]
        tenant=read_name(what) if why == b"tenant" else None,
        places=int(what) if why == b"full" else 0,
        reason=read_text(what) if why == b"cancelled" else "",
    )


def _steps_refused(raw: Raw) -> tuple[protocol.StepRefused, ...]:
    return tuple([_step_refused(*raw[at : at + 3]) for at in range(1, len(raw), 3)])


# Queries


def _looked(raw: Raw) -> protocol.Looked:
    _, state, *body = raw
    return protocol.Looked(state.decode(), _body(*body) if body else None)


def _page(read: Callable[[Any], Any], size: int = 0) -> Decode:
    """Decode a page: the place to go on from, and its members, each of so many words or of one."""

    def decode(raw: Raw) -> protocol.Page[Any]:
        _, after, *words = raw
        parts = words if not size else [words[at : at + size] for at in range(0, len(words), size)]
        return protocol.Page(tuple(map(read, parts)), after or None)

    return decode


_AFTER: Final = Field("from", WORD, lambda operation: operation.after or "")


def _tenant_counts(words: Raw) -> tuple[str | None, TenantStatistics]:
    name, ready, leased = words
    return read_name(name), TenantStatistics(ready, leased)


def _statistics(raw: Raw) -> Statistics:
    _, ready, delayed, leased, buffered, put, delivered, acked, released, expired, *rest = raw
    given_back, dead, dropped, superseded, cancelled, age, paused = rest
    return Statistics(
        ready=ready,
        delayed=delayed,
        leased=leased,
        buffered=buffered,
        getters=0,
        takers=0,
        putters=0,
        put=put,
        delivered=delivered,
        acked=acked,
        released=released,
        expired=expired,
        given_back=given_back,
        cancelled=cancelled,
        dead=dead,
        dropped=dropped,
        superseded=superseded,
        oldest_ready_age=None if int(age) < 0 else int(age) / 1e6,
        tenants=None,
        paused=bool(paused),
    )


def _lease_info(fields: Raw) -> LeaseInfo[protocol.Key | RawKey]:
    key, token, consumer, age, left, deliveries, tenant, priority, cancelled = fields
    return LeaseInfo(
        key=read_key(key),
        token=int(token),
        consumer=read_name(consumer),
        since=-age / 1e6,
        deadline=read_seconds(left),
        deliveries=deliveries,
        tenant=read_name(tenant),
        priority=priority,
        cancelled=bool(cancelled),
    )


def _queue_info(raw: Raw) -> QueueInfo:
    _, name, ready, delayed, leased, dead, created_at, since, reason, *pauses = raw
    return QueueInfo(
        name=read_text(name),
        ready=ready,
        delayed=delayed,
        leased=leased,
        dead=dead,
        created_at=int(created_at) / 1e6,
        dead_letters_of=(),
        paused=_pause(since, reason) if int(since) else None,
        paused_tenants={
            read_name(pauses[at]) or "": _pause(*pauses[at + 1 : at + 3])
            for at in range(0, len(pauses), 3)
        },
    )


def _pause(since: bytes, reason: bytes) -> Paused:
    return Paused(read_text(reason), int(since) / 1e6)


def _history_entry(fields: Raw) -> HistoryEntry[protocol.Key | RawKey, protocol.Body]:
    key, body, token, deliveries, ended_at, letter, how = fields
    return HistoryEntry(
        read_key(key),
        _body(body, letter),
        int(token),
        deliveries,
        int(ended_at) / 1e6,
        "cancelled" if how == b"cancelled" else "acked",
    )


def _found_lease(raw: Raw) -> protocol.FoundLease:
    return protocol.FoundLease(_delivery(raw[1:9]), read_seconds(raw[9]))


def _listed(words: Raw) -> protocol.Listed:
    name, number, letters = words
    return protocol.Listed(number, read_text(name), read_text(letters))


# Whole queues


def _declared(raw: Raw) -> protocol.Declared:
    _, letters, stored, made = raw
    try:
        options = read_options(stored)
    except Exception as error:
        return protocol.Declared(read_text(letters), {}, failure_text(error), made)
    return protocol.Declared(read_text(letters), options, made=made)


def _option(name: str, usual: Any) -> Callable[[protocol.Declare], Any]:
    return lambda operation: operation.options.get(name, usual)


def _of_letters(operation: protocol.Declare) -> BrokerQueueOptions:
    return {"group": operation.options["group"]} if "group" in operation.options else {}


def _max_deliveries(operation: protocol.Declare) -> int | None:
    return operation.options.get("retry", Retry()).max_deliveries


_NO_BACKOFF: Final = Backoff(0.0, 1.0, 0.0)


def _backoff(operation: protocol.Declare) -> Backoff:
    return operation.options.get("retry", Retry()).backoff or _NO_BACKOFF


def _base(operation: protocol.Declare) -> float:
    backoff = operation.options.get("retry", Retry()).backoff
    return inf if backoff is None else min(backoff.base, 3.15e9)


def _tenants(operation: protocol.Declare) -> Sequence[tuple[str, Tenant]]:
    return [*(operation.options.get("tenants") or {}).items()]


def _redriven(raw: Raw) -> protocol.Redriven:
    _, keys, conflicts, letters, after, looked_at = raw
    return protocol.Redriven(
        tuple(map(decode_key, keys)),
        tuple(map(decode_key, conflicts)),
        letters,
        looked_at,
        after or None,
    )


def _tenant_fields(get: Callable[[Any], Tenant]) -> tuple[Field, ...]:
    return (
        Field("weight", REAL, lambda value: float(get(value).weight)),
        Field("cap", COUNT, lambda value: get(value).max_in_flight),
    )


# The table


OPERATIONS: Final[Mapping[type[Operation[Any]], Layout]] = {
    protocol.Put: _PUT,
    protocol.Claim: _CLAIM,
    protocol.Ack: _ACK,
    protocol.Release: _RELEASE,
    protocol.Reject: _REJECT,
    protocol.GiveBack: _settlement("give_back"),
    protocol.Undo: _settlement("undo"),
    protocol.Extend: _settlement("extend", Field("timeout", LEASE)),
    protocol.HoldOn: _settlement("hold_on", Field("timeout", LEASE)),
    protocol.Discard: _layout(
        "discard", QueueField(), Field("key", KEY), ok=lambda raw: bool(raw[1])
    ),
    protocol.Cancel: _layout(
        "cancel",
        QueueField(),
        Field("key", KEY),
        Field("reason", TEXT),
        Field("keeps", FLAG, "keep_successor"),
        _VALUES,
        ok=lambda raw: bool(raw[1]),
    ),
    protocol.Close: _layout(
        "close",
        QueueField(),
        Many((Field("key", KEY, itemgetter(0)), Field("token", TOKEN, itemgetter(1))), "leases"),
        ok=lambda raw: protocol.Remaining(raw[1]),
    ),
    protocol.Sweep: _layout(
        "sweep",
        QueueField(),
        Field("limit", COUNT),
        ok=lambda raw: protocol.Swept(bool(raw[1]), raw[2]),
    ),
    protocol.Wake: _layout("wake", QueueField(), Field("want", WANT), ok=_none),
    protocol.Unpark: _layout("unpark", QueueField(), Many(_EACH_PARK, "parks"), ok=_none),
    protocol.Parked: _layout(
        "parked",
        QueueField(),
        Field("places", COUNT),
        Many(_EACH_PARK, "parks"),
        ok=lambda raw: tuple(map(decode_want, raw[1:])),
    ),
    protocol.Join: _layout(
        "join",
        QueueField(),
        Field("stamp", TOKEN),
        ok=lambda raw: protocol.Remaining(raw[1], raw[2]),
    ),
    protocol.Abandon: _layout(
        "abandon",
        Field("last", COUNT, "number"),
        Many((EachQueue(),), "queues"),
        ok=lambda raw: bool(raw[1]),
    ),
    protocol.KeepValues: _layout(
        "keep_values", QueueField(), Many(_EACH_VALUE, "values"), ok=_none
    ),
    protocol.Recall: _layout(
        "recall",
        QueueField(),
        Field("name", VALUE_NAME),
        Field("waits", FLAG),
        ok=_recalled,
    ),
    protocol.StopWaiting: _layout(
        "stop_waiting",
        QueueField(),
        Many((Field("name", VALUE_NAME, lambda name: name),), "names"),
        ok=_none,
    ),
    protocol.Transact: _layout(
        "transact",
        Many((Step(),), _steps_of),
        ok=lambda _: (),
        answers={b"failed": _steps_refused},
    ),
    protocol.Look: _layout(
        "look", QueueField(), Field("key", KEY), Field("wants_body", FLAG, "value"), ok=_looked
    ),
    protocol.AvailableKeys: _layout("ready", QueueField(), _AFTER, ok=_page(read_key)),
    protocol.DelayedKeys: _layout("delayed", QueueField(), _AFTER, ok=_page(read_key)),
    protocol.LeasedKeys: _layout("leased", QueueField(), _AFTER, ok=_page(read_key)),
    protocol.Counts: _layout("counts", QueueField(), ok=_statistics),
    protocol.CountTenants: _layout("tenants", QueueField(), _AFTER, ok=_page(_tenant_counts, 3)),
    protocol.InFlight: _layout("inflight", QueueField(), _AFTER, ok=_page(_lease_info)),
    protocol.Info: _layout("info", QueueField(), ok=_queue_info),
    protocol.ReadHistory: _layout("history", QueueField(), _AFTER, ok=_page(_history_entry)),
    protocol.Held: _layout(
        "held",
        *_LEASE_FIELDS,
        ok=lambda raw: bool(raw[1]),
        answers={b"cancelled": _cancellation},
    ),
    protocol.FindLease: _layout(
        "find_lease",
        *_LEASE_FIELDS,
        ok=_found_lease,
        answers={b"no": _none, b"cancelled": _cancellation},
    ),
    protocol.Find: _layout("find", Field("name", TEXT, "queue.name"), ok=_declared),
    protocol.ListQueues: _layout("queues", _AFTER, ok=_page(_listed, 3)),
    protocol.Declare: _layout(
        "declare",
        QueueField(),
        Field("name", TEXT, "queue.name"),
        Field("options", WORD, lambda operation: write_options(operation.options)),
        Field("letters", TEXT, lambda operation: operation.options.get("dead_letters") or ""),
        Field("letters_options", WORD, lambda operation: write_options(_of_letters(operation))),
        Field("max_size", LIMIT, _option("max_size", inf)),
        Field("max_deliveries", LIMIT, _max_deliveries),
        Field("base", DELAY, _base),
        Field("factor", REAL, lambda operation: float(_backoff(operation).factor)),
        Field("ceiling", SPAN, lambda operation: _backoff(operation).ceiling),
        Field("history_size", COUNT, _option("history", 0)),
        Field("dedupe_for", SPAN, lambda operation: operation.options.get("dedupe_for") or 0.0),
        Many(
            (Field("name", NAME, itemgetter(0)), *_tenant_fields(itemgetter(1))),
            _tenants,
        ),
        ok=_declared,
        answers={b"no": _none},
    ),
    protocol.Delete: _layout("delete", QueueField(), Field("name", TEXT, "queue.name"), ok=_none),
    protocol.Purge: _layout("purge", QueueField(), ok=lambda raw: protocol.Purged(raw[1], raw[2])),
    protocol.Redrive: _layout(
        "redrive",
        QueueField(),
        Field("all", FLAG, lambda operation: operation.keys is None),
        Many((Field("key", KEY, lambda key: key),), lambda operation: operation.keys or ()),
        Field("limit", LIMIT),
        Field("from", WORD, lambda operation: operation.after or "-"),
        ok=_redriven,
    ),
    protocol.SetTenant: _layout(
        "set_tenant",
        QueueField(),
        Field("tenant", NAME, "name"),
        *_tenant_fields(attrgetter("tenant")),
        ok=_none,
    ),
    protocol.Pause: _layout(
        "pause",
        QueueField(),
        Field("tenant", NAME),
        Field("reason", TEXT),
        ok=lambda _: True,
        answers={b"no": lambda _: False},
    ),
    protocol.Resume: _layout(
        "resume", QueueField(), Field("tenant", NAME), ok=lambda raw: bool(raw[1])
    ),
    protocol.ReleaseAll: _layout(
        "release_all",
        QueueField(),
        Field("consumer", NAME),
        _AFTER,
        ok=lambda raw: protocol.Released(raw[1], raw[2] or None),
    ),
}
"""Every operation of the protocol."""
