"""Puts within a transaction of the user's own, on the same file: an outbox without an outbox."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

from anyio import WouldBlock

from .._core.codec import Codec, JsonCodec, encode_with
from .._core.errors import UnusableServerError
from .._core.limits import check_bodies
from .._core.messages import full, key_in_flight, no_queue, tenant_mismatch
from .._core.options import PutOptions
from .._core.queue_options import check_codec, queue_name
from .._core.reports import PutOutcome
from .._core.requests import PutRequest
from .._core.texts import queue_text, shown
from .._remote.checks import check_fields
from .._remote.encoding import encode_event, plain_key
from .._remote.protocol import Full, GoneError, Key, Put, PutRefused, QueueRef
from . import schema
from .hints import Voice
from .operations import Exchange
from .parks import Parks
from .work import Work


def put_in(
    connection: sqlite3.Connection,
    queue: str,
    key: Key,
    value: object,
    *,
    codec: Codec[Any] | None = None,
    **options: Unpack[PutOptions],
) -> PutOutcome:
    """Put an item within your own transaction on the file: it is there if that is committed.

    Consumers in all processes are woken, and have the item as soon as the transaction ends. It is a
    statement like any other: where the connection has begun no transaction, it begins one, or in
    autocommit is one of its own. If it raises, the connection is as it was, and keeps no lock.

    Args:
        connection: Yours, on a file that `leaseq.connect` has opened before; used by this thread.
        queue: The name of the queue, which must have been made.
        key: The item's key.
        value: Its value.
        codec: The codec of the queue's values; None: JSON.
        **options: As those of a put.

    Raises:
        WouldBlock: the queue has no room.
        KeyAlreadyInFlightError, TenantMismatchError, CodecError, TypeError, ValueError: as a put.
        LookupError: there is no such queue.
        UnusableServerError: the database has no queues, or those of another version.
        sqlite3.Error: the transaction failed, as at any other statement; the put was not done.

    Does not suspend, and not more than SQLite's own timeout for the lock. O(log n).
    """
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(f"connection must be a sqlite3.Connection, not {shown(connection)}")
    queue = queue_name(queue)
    request = PutRequest("put_in", **options)
    check_codec(codec)
    key = plain_key(key)
    body = _encode(codec, value, queue)
    check_bodies("put_in", [len(body)], key)
    put = Put(QueueRef(queue), ((key, body),), request)
    check_fields(put)
    with _cursor_of(connection) as cursor:
        answer = _do(cursor, put)
        if isinstance(answer, tuple):
            outcome: PutOutcome = answer[0]
            return outcome
        if isinstance(answer, GoneError):
            raise no_queue(queue)
        assert isinstance(answer, PutRefused)
        if answer.why == "in_flight":
            raise key_in_flight(key)
        raise tenant_mismatch(key, answer.tenant, request.tenant)


def _encode(codec: Codec[Any] | None, value: object, queue: str) -> bytes:
    if codec is not None:
        return encode_with(codec, value, queue)
    # The queue may have a type: its handles know it, and the file does not.
    return JsonCodec[Any]()._encode_for(
        value, "pass put_in() the queue's type as codec=JsonCodec(TYPE), or"
    )


@contextmanager
def _cursor_of(connection: sqlite3.Connection) -> Iterator[sqlite3.Cursor]:
    """Open a cursor that gives rows as they are, within a transaction and a savepoint in it.

    After an error the connection is as it was: in no transaction, if it was in none.
    """
    cursor = connection.cursor()
    cursor.row_factory = None
    text_factory = connection.text_factory
    connection.text_factory = str
    begins = not connection.in_transaction
    try:
        if begins:
            cursor.execute("BEGIN IMMEDIATE")
        cursor.execute("SAVEPOINT leaseq_put")
        try:
            yield cursor
        except BaseException:
            cursor.execute("ROLLBACK" if begins else "ROLLBACK TO leaseq_put")
            raise
        finally:
            if connection.in_transaction:
                cursor.execute("RELEASE leaseq_put")
        if begins and _is_autocommit(connection):
            cursor.execute("COMMIT")
    finally:
        connection.text_factory = text_factory
        cursor.close()


def _is_autocommit(connection: sqlite3.Connection) -> bool:
    """Return True if a statement outside of a transaction is one of its own."""
    autocommit = getattr(connection, "autocommit", None)  # from Python 3.12 on
    return autocommit is True or (autocommit is not False and connection.isolation_level is None)


def _do(cursor: sqlite3.Cursor, put: Put) -> object:
    try:
        found = schema.format_of(cursor)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        raise UnusableServerError(
            "there are no queues in this database: open it once with "
            'leaseq.connect("sqlite:///FILE?adopt=true")'
        ) from None
    if found != schema.FORMAT:
        raise UnusableServerError(
            f"the queues of this database have the format {found}, and this leaseq knows "
            f"{schema.FORMAT}: "
            + ("upgrade leaseq here" if found > schema.FORMAT else "open it once with this leaseq")
        )
    voice = Voice()
    try:
        work = Work(cursor, "", time.time())
        parks = Parks(work, voice.is_heard)
        exchange = Exchange(work, parks, lambda: True)
        name = put.queue.name
        due = exchange.due((put,))
        answer = exchange.do(put)
        queue = work.queues.find(name)
        if isinstance(answer, Full) and queue is not None:
            raise WouldBlock(full(queue_text(name), queue.max_size))
        if isinstance(answer, tuple) and queue is not None:
            work.flush()
            if exchange.due((put,))[name] < due[name]:  # and no process is told that in a reply
                parks.wake_all(queue)
            work.note_time()
            # A process that looks now waits for the end of this transaction.
            for _, address, event in parks.told:
                voice.send(address, encode_event(event))
        return answer
    finally:
        voice.close()
