"""The operations of the protocol, done within a transaction on the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Final

from .._core.errors import ServerError
from .._core.kept import Kept
from .._core.messages import Cancellation
from .._core.options import ANY_KEY, BrokerQueueOptions
from .._core.reports import (
    HistoryEntry,
    LeaseInfo,
    Paused,
    PutOutcome,
    QueueInfo,
    Statistics,
    TenantStatistics,
)
from .._remote import protocol
from .._remote.encoding import (
    decode_key,
    encode_key,
    encode_name,
    encode_text,
    encode_value_name,
    read_key,
    read_name,
    read_text,
)
from .._remote.protocol import GoneError, Key, Operation, Page, Park, Settled, Want
from .._remote.stored_options import read_options, write_options
from .._rules import moves
from .._rules.plan import Plan, PlannedKey
from .parks import Parks
from .rows import BUFFERED, INLINE, LEASED, READY, STATES, Letter, Queue, Row
from .schema import OF_A_QUEUE
from .work import SWEPT, Work, letter_origin, read_body

_LITTLE_FREE: Final = "little of it is free"
_LOT: Final = 200
"""Letters that one step of a redrive looks at, and lines that are looked at for the oldest item."""


class Exchange:
    """A batch of operations under way, each of which is done wholly or raises.

    Args:
        work: The transaction.
        parks: The parks in the file.
        has_room: Returns False if nothing new is to be put, since the disk is nearly full.
    """

    def __init__(self, work: Work, parks: Parks, has_room: Callable[[], bool]) -> None:
        self._work = work
        self._parks = parks
        self._has_room = has_room

    def do_all(self, operations: Sequence[Operation[Any]]) -> list[object]:
        """Do operations in their order, and return their answers."""
        answers: list[object] = []
        while len(answers) < len(operations):
            run = _alike(operations, len(answers))
            if type(run[0]) in _GROWING and not self._has_room():
                answers += [no_room(_LITTLE_FREE)] * len(run)
                continue
            several = _SEVERAL.get(type(run[0]))
            queue = None if several is None else self._work.queues.find(run[0].queue.name)
            done = None if several is None or queue is None else several(self, queue, run)
            if done is None:
                self._look_up(run)
                done = [self.do(operation) for operation in run]
            else:
                self._parks.end_operation()
            answers += done
        return answers

    def _look_up(self, run: Sequence[Operation[Any]]) -> None:
        """Read the items that operations of one kind will ask for, many with one query."""
        queue = self._work.queues.find(run[0].queue.name)
        if len(run) == 1 or queue is None:
            return
        keys: list[bytes] = []
        for operation in run:
            if isinstance(operation, protocol.Put):
                keys += [encode_key(key) for key, _ in operation.items]
            elif isinstance(operation, protocol.Settlement):
                keys.append(encode_key(operation.key))
        self._work.items.look_up(queue.id, keys)

    def do(self, operation: Operation[Any]) -> object:
        """Do an operation, and return its answer."""
        kind = type(operation)
        if kind in _OF_NO_QUEUE:
            answer = _OF_NO_QUEUE[kind](self, operation)
        else:
            queue = self._work.queues.find(operation.queue.name)
            if queue is None:
                return GoneError()
            answer = _OF_A_QUEUE[kind](self, queue, operation)
        if operation.family != "queries":
            self._parks.end_operation()
        return answer

    def again(self, operation: Operation[Any], answer: object) -> object:
        """Return an answer once more; leases that are held no more are left out."""
        if not isinstance(answer, protocol.Claimed | protocol.Recalled):
            return answer
        queue = self._work.queues.find(operation.queue.name)
        if queue is None:
            return GoneError()
        if isinstance(operation, protocol.Recall):
            return self._recalled(queue, operation)
        assert isinstance(answer, protocol.Claimed)
        batches = tuple(
            tuple([each for each in batch if self._work.is_leased(queue, each)])
            for batch in answer.batches
        )
        return protocol.Claimed(batches, queue.total, answer.parks)

    def due(self, operations: Sequence[Operation[Any]]) -> dict[str, float]:
        """Return the seconds until something falls due in each queue that took part."""
        due: dict[str, float] = {}
        for operation in operations:
            steps = operation.steps if isinstance(operation, protocol.Transact) else (operation,)
            for step in steps:
                ref = None if step is None else step.queue
                while ref is not None:
                    if ref.name not in due:
                        due[ref.name] = max(0.0, self._next_at(ref.name) - self._work.now)
                    ref = ref.letters
        return due

    def _next_at(self, name: str) -> float:
        try:
            queue = self._work.queues.find(name)
        except ServerError:  # its operations have this for an answer
            return inf
        return inf if queue is None else self._work.items.next_at(queue.id)

    # Puts

    def put(self, queue: Queue, put: protocol.Put) -> protocol.PutAnswer:
        work, terms = self._work, put.request
        items = [(encode_key(key), body) for key, body in put.items]
        fresh: set[bytes] = set()
        for index, (key, _) in enumerate(items):
            row = work.items.find(queue.id, key)
            if row is None:
                if key not in fresh and not work.was_done(queue, key):
                    fresh.add(key)
                continue
            tenant = read_name(row.tenant)
            refused = moves.refusal(tenant, terms, leased=row.state == LEASED)
            if refused is not None:
                return protocol.PutRefused(index, refused, tenant)
        places = len(fresh)
        if places > queue.max_size:
            return protocol.NeverFits(places)
        if places and queue.waiting + places > queue.max_size:
            stamp = None if put.behind else self._parks.park(queue, Want("room")).stamp
            return protocol.Full(places, stamp)
        if places and put.behind and queue.max_size != inf:
            return protocol.Full(places)
        return tuple([work.put(queue, key, body, terms) for key, body in items])

    def _put_several(
        self, queue: Queue, puts: Sequence[protocol.Put]
    ) -> list[tuple[PutOutcome, ...]] | None:
        """Put items by the short way; None: some are not new, or have something unusual."""
        if queue.fair or queue.max_size != inf or queue.dedupe_for:
            return None
        now, rank = self._work.now, queue.back
        rows: list[tuple[int, bytes, int, int, float, bytes]] = []
        keys: list[bytes] = []
        for put in puts:
            terms = put.request
            if terms.tenant is not None or terms.timed:
                return None
            urgency = -(moves.NORMAL if terms.priority is None else terms.priority)
            for key, body in put.items:
                if len(body) > INLINE:
                    return None
                rank += 1
                encoded = encode_key(key)
                keys.append(encoded)
                rows.append((queue.id, encoded, rank, urgency, now, body))
        if len(set(keys)) < len(keys) or self._work.items.are_there(queue.id, keys):
            return None
        self._work.items.add_plain(rows)
        queue.back = rank
        queue.ready += len(rows)
        queue.has_put = True
        queue.came += [(key, b"") for key in keys]
        return [(PutOutcome.ADDED,) * len(put.items) for put in puts]

    def discard(self, queue: Queue, discard: protocol.Discard) -> bool:
        row = self._work.items.find(queue.id, encode_key(discard.key))
        if row is None or row.state == LEASED:
            return False
        self._work.discard(queue, row)
        return True

    def cancel(self, queue: Queue, cancel: protocol.Cancel) -> bool:
        work = self._work
        row = work.items.find(queue.id, encode_key(cancel.key))
        if row is None:
            return False
        was_held = row.state == LEASED and row.cancelled is None
        reason = read_text(encode_text(cancel.reason))  # a file takes no lone surrogates
        keeps = cancel.keep_successor
        done = work.cancel(queue, row, reason, keep_successor=keeps)
        if was_held and row.process != work.process:
            self._parks.tell(row.process, protocol.LeaseEnded(queue.name, row.place))
        elif was_held:
            lost = protocol.LeaseEnded(queue.name, row.place, Cancellation(reason))
            work.events.append(lost)
        if done:
            self._keep(queue, cancel.keep)
        return done

    # Claims

    def claim(self, queue: Queue, claim: protocol.Claim) -> protocol.Claimed:
        work = self._work
        if queue.leased or queue.delayed or queue.ready:
            work.sweep(queue, SWEPT)
        held = {park.want: park for park in claim.held}
        parks: dict[Want, Park | None] = {}  # None: there was one
        batches: list[tuple[protocol.Delivery, ...]] = []
        for part in claim.claims:
            deliveries = work.claim(queue, part.request, part.count)
            batches.append(tuple(deliveries))
            if len(deliveries) < part.count and claim.parks:
                for want in self._wants(queue, part):
                    if want not in parks:
                        there = want in held and self._parks.stands(queue, held[want])
                        parks[want] = None if there else self._parks.park(queue, want)
        if queue.came:  # what fell due just now, and may have been handed out since
            rows = [(each, work.items.find(queue.id, each[0])) for each in queue.came]
            queue.came = [each for each, row in rows if row is not None and row.state == READY]
        queue.wakes_next = queue.ready > 0  # the process that was woken may have been this one
        new = tuple([park for park in parks.values() if park is not None])
        return protocol.Claimed(tuple(batches), queue.total, new)

    def _wants(self, queue: Queue, part: protocol.ClaimFor) -> list[Want]:
        """Return the wants of a request that was not served."""
        request = part.request
        if request.key is not ANY_KEY:
            row = self._work.items.find(queue.id, encode_key(request.key))
            wants = [Want("key", request.key)]
            if row is not None and row.state == READY:
                wants.append(Want("cap", read_name(row.tenant)))
            return wants
        if request.tenants is None:
            return [Want("any more" if part.patient else "any")]
        return [
            *(Want("own more" if part.patient else "own", name) for name in request.tenants),
            *(Want("steal more" if part.patient else "steal", name) for name in request.steal_from),
        ]

    # Settlements

    def _not_held(
        self, queue: Queue, lease: protocol.Settlement, *, ends: bool = True
    ) -> protocol.SettledAnswer:
        """Return the answer to a settlement by a token that does not hold its item.

        Args:
            queue: The queue.
            lease: The settlement.
            ends: True: if it was cancelled, its holder has ended, and the key is free.
        """
        cancelled = self._work.cancellation(queue, lease.key, lease.token)
        if cancelled is None:
            return Settled.NOT_HELD
        row, cause = cancelled
        if ends:
            self._work.wind_up(queue, row)
        return cause

    def ack(self, queue: Queue, ack: protocol.Ack) -> protocol.SettledAnswer:
        row = self._work.held(queue, ack.key, ack.token)
        if row is None:
            return self._not_held(queue, ack)
        dropped = self._work.ack(queue, row)
        self._keep(queue, ack.keep)
        return Settled.UPDATE_DROPPED if dropped else Settled.DONE

    def _ack_several(
        self, queue: Queue, acks: Sequence[protocol.Ack]
    ) -> list[protocol.SettledAnswer] | None:
        """Acknowledge items by the short way; None: that cannot be done with these."""
        if queue.fair or queue.history or queue.dedupe_for:
            return None
        leases = [(encode_key(ack.key), ack.token) for ack in acks if not ack.keep]
        if len(set(leases)) < len(acks):
            return None
        done = self._work.items.remove_leased(queue.id, leases, self._work.now)
        if not done <= set(leases):
            raise AssertionError("a token belongs to one key")
        queue.leased -= len(done)
        queue.acked += len(done)
        pairs = zip(leases, acks, strict=True)
        return [Settled.DONE if lease in done else self.ack(queue, ack) for lease, ack in pairs]

    def release(self, queue: Queue, release: protocol.Release) -> protocol.SettledAnswer:
        row = self._work.held(queue, release.key, release.token)
        if row is None:
            return self._not_held(queue, release)
        self._work.release(
            queue,
            row,
            front=release.front,
            delay=release.delay,
            counted=release.counted,
            error=release.error,
        )
        return Settled.DONE

    def reject(self, queue: Queue, reject: protocol.Reject) -> protocol.SettledAnswer:
        row = self._work.held(queue, reject.key, reject.token)
        if row is None:
            return self._not_held(queue, reject)
        self._work.reject(queue, row, reject.reason, reject.error, unread=reject.unread)
        self._keep(queue, reject.keep)
        return Settled.DONE

    def give_back(self, queue: Queue, settlement: protocol.GiveBack) -> protocol.SettledAnswer:
        row = self._work.held(queue, settlement.key, settlement.token)
        if row is None:
            return self._not_held(queue, settlement)
        self._work.give_back(queue, row)
        return Settled.DONE

    def undo(self, queue: Queue, settlement: protocol.Undo) -> protocol.SettledAnswer:
        row = self._work.leased(queue, settlement.key, settlement.token)
        if row is None or row.cancelled is not None:
            return self._not_held(queue, settlement)
        self._work.undo(queue, row)
        return Settled.DONE

    def extend(
        self, queue: Queue, extend: protocol.Extend | protocol.HoldOn
    ) -> protocol.SettledAnswer:
        row = self._work.held(queue, extend.key, extend.token)
        if row is None:
            return self._not_held(queue, extend, ends=False)
        row.deadline = self._work.now + extend.timeout
        self._work.items.save(row)
        return Settled.DONE

    def hold_on(self, queue: Queue, hold: protocol.HoldOn) -> protocol.SettledAnswer:
        cancelled = self._work.cancellation(queue, hold.key, hold.token)
        if cancelled is None:
            return self.extend(queue, hold)
        row, cause = cancelled
        row.deadline = self._work.now + hold.timeout
        self._work.items.save(row)
        return cause

    def close(self, queue: Queue, close: protocol.Close) -> protocol.Remaining:
        for key, token in close.leases:
            row = self._work.leased(queue, key, token)
            if row is not None:
                self._work.close(queue, row)
        return protocol.Remaining(queue.total)

    # Kept values

    def _keep(self, queue: Queue, values: tuple[Kept, ...]) -> None:
        for value in values:
            self._work.keep(queue, encode_value_name(value.name), value.body, value.ttl)
            self._parks.tell_of_value(queue, value.name)

    def keep_values(self, queue: Queue, keep: protocol.KeepValues) -> None:
        self._keep(queue, keep.values)

    def _recalled(self, queue: Queue, recall: protocol.Recall) -> protocol.Recalled:
        body = self._work.kept(queue, encode_value_name(recall.name))
        return protocol.Recalled(body, body is not None)

    def recall(self, queue: Queue, recall: protocol.Recall) -> protocol.Recalled:
        found = self._recalled(queue, recall)
        if recall.waits and not found.is_there:
            self._parks.wait_for_value(queue, encode_value_name(recall.name))
        return found

    def stop_waiting(self, queue: Queue, stop: protocol.StopWaiting) -> None:
        for name in stop.names:
            self._parks.stop_waiting_for(queue, encode_value_name(name))

    # Waiting, and what falls due

    def sweep(self, queue: Queue, sweep: protocol.Sweep) -> protocol.Swept:
        outlived = queue.outlived
        done = self._work.sweep(queue, sweep.limit)
        return protocol.Swept(done >= sweep.limit, queue.outlived - outlived)

    def wake(self, queue: Queue, wake: protocol.Wake) -> None:
        self._parks.pass_on(queue, wake.want)

    def unpark(self, queue: Queue, unpark: protocol.Unpark) -> None:
        for park in unpark.parks:
            self._parks.unpark(queue, park)

    def parked(self, queue: Queue, parked: protocol.Parked) -> tuple[Want, ...]:
        gone: list[Want] = []
        for park in parked.parks:
            stands = self._parks.stands(queue, park)
            if stands and self._parks.is_overlooked(queue, park.want, parked.places):
                self._parks.unpark(queue, park)
                stands = False
            if not stands:
                gone.append(park.want)
        return tuple(gone)

    def join(self, queue: Queue, join: protocol.Join) -> protocol.Remaining:
        park = Park(Want("drained"), join.stamp)
        if queue.total and not self._parks.stands(queue, park):
            park = self._parks.park(queue, Want("drained"))
        return protocol.Remaining(queue.total, park.stamp)

    def abandon(self, _: object) -> bool:
        return True  # it was done, unless the process knows better: what a file says is not lost

    # Transactions

    def transact(self, transact: protocol.Transact) -> tuple[protocol.StepRefused, ...]:
        if any(isinstance(step, protocol.Put) for step in transact.steps) and not self._has_room():
            raise no_room(_LITTLE_FREE)
        failures: list[protocol.StepRefused] = []
        plans: dict[Queue, Plan] = {}
        last: dict[Queue, int] = {}
        for number, step in enumerate(transact.steps):
            queue = None if step is None else self._work.queues.find(step.queue.name)
            if step is None or queue is None:
                failures.append(
                    protocol.StepRefused(number, "not held" if step is None else "gone")
                )
                continue
            if queue not in plans:
                plans[queue] = Plan(partial(self._key_of, queue), dedupes=queue.dedupe_for > 0)
            last[queue] = number
            refused = self._plan(plans[queue], queue, step)
            if refused is not None:
                failures.append(replace(refused, step=number))
        for queue, plan in plans.items():
            if plan.places and queue.waiting + plan.places > queue.max_size:
                failures.append(protocol.StepRefused(last[queue], "full", places=plan.places))
        if failures:
            return tuple(failures)
        for step in transact.steps:
            assert step is not None
            queue = self._work.queues.find(step.queue.name)
            assert queue is not None
            if isinstance(step, protocol.Put):
                for key, body in step.items:
                    self._work.put(queue, encode_key(key), body, step.request)
            else:
                _OF_A_QUEUE[type(step)](self, queue, step)
        return ()

    def _key_of(self, queue: Queue, key: bytes) -> PlannedKey:
        row = self._work.items.find(queue.id, key)
        done = self._work.was_done(queue, key)
        if row is None:
            return PlannedKey(there=False, done=done)
        return PlannedKey(
            there=True,
            leased=row.state == LEASED,
            succeeded=row.after_kind == BUFFERED,
            tenant=read_name(row.tenant),
            done=done,
        )

    def _plan(
        self,
        plan: Plan,
        queue: Queue,
        step: protocol.Put | protocol.Ack | protocol.Release | protocol.Reject,
    ) -> protocol.StepRefused | None:
        """Plan a step of a transaction; return the refusal, if it cannot be taken."""
        if isinstance(step, protocol.Put):
            for key, _ in step.items:
                refused = plan.put(encode_key(key), step.request)
                if refused is not None:
                    return protocol.StepRefused(0, refused.why, tenant=refused.tenant)
            return None
        row = self._work.held(queue, step.key, step.token)
        if row is None:
            cause = self._not_held(queue, step, ends=False)
            if isinstance(cause, Cancellation):
                return protocol.StepRefused(0, "cancelled", reason=cause.reason)
            return protocol.StepRefused(0, "not held")
        buried = not queue.letters or self._work.queues.find(queue.letters) is not None
        if isinstance(step, protocol.Ack):
            ends = plan.ack(row.key)
        elif isinstance(step, protocol.Release):
            dies = step.counted and queue.retry.exhausted(row.deliveries)
            ends = plan.release(row.key, leaves=dies and buried)
        else:
            kept = step.unread and not queue.letters
            ends = plan.release(row.key, leaves=buried and not kept)
        return None if ends else protocol.StepRefused(0, "twice")

    # Queries

    def look(self, queue: Queue, look: protocol.Look) -> protocol.Looked:
        items = self._work.items
        row = items.find(queue.id, encode_key(look.key))
        if row is None:
            return protocol.Looked("absent", None)
        body = None
        if look.value:
            after = items.successor(row)
            newest = items.body(row) if after is None else after.value
            assert newest is not None
            body = read_body(newest)
        return protocol.Looked(STATES[row.state], body)

    def available_keys(self, queue: Queue, _: object) -> Page[Any]:
        return Page(tuple(map(read_key, self._work.items.ready_keys(queue.id))))

    def delayed_keys(self, queue: Queue, _: object) -> Page[Any]:
        return Page(tuple(map(read_key, self._work.items.delayed_keys(queue.id))))

    def leased_keys(self, queue: Queue, _: object) -> Page[Any]:
        return Page(tuple([read_key(row.key) for row in self._work.items.leased(queue.id)]))

    def count_tenants(self, queue: Queue, _: object) -> Page[tuple[str | None, TenantStatistics]]:
        found = [(b"", queue.ready, queue.leased)]
        if queue.fair:
            found = self._work.turns(queue).all()
        counts = [(read_name(name), TenantStatistics(ready, held)) for name, ready, held in found]
        return Page(tuple(counts))

    def held(self, queue: Queue, held: protocol.Held) -> bool | Cancellation:
        cancelled = self._work.cancellation(queue, held.key, held.token)
        if cancelled is not None:
            return cancelled[1]
        return self._work.held(queue, held.key, held.token) is not None

    def counts(self, queue: Queue, _: object) -> Statistics:
        return Statistics(
            getters=0,
            takers=0,
            putters=0,
            ready=queue.ready,
            delayed=queue.delayed,
            leased=queue.leased,
            buffered=queue.buffered,
            put=queue.total
            + queue.acked
            + queue.dead
            + queue.dropped
            + queue.superseded
            + queue.cancelled,
            delivered=queue.handed_out - queue.undone - queue.given_back,
            acked=queue.acked,
            released=queue.released,
            expired=queue.expired,
            given_back=queue.given_back,
            cancelled=queue.cancelled,
            dead=queue.dead,
            dropped=queue.dropped,
            superseded=queue.superseded,
            oldest_ready_age=self._oldest_age(queue),
            tenants=None,
            paused=bool(queue.paused),
        )

    def _oldest_age(self, queue: Queue) -> float | None:
        """Return the age of the item that has been ready for longest, as far as it is looked for.

        At the back of one line that is the first; those before it may have come in any order.
        """
        oldest = inf
        after: tuple[bytes, int, int] | None = None
        for _ in range(_LOT):
            rows = self._work.items.ready(queue.id, after, 1)
            if not rows:
                break
            row = rows[0]
            oldest = min(oldest, row.since)
            # The last place of a line: the next one is looked at.
            place = row.place if row.place < 0 else (1 << 63) - 1
            after = row.tenant, -row.priority, place
        return None if oldest == inf else max(0.0, self._work.now - oldest)

    def in_flight(self, queue: Queue, _: object) -> Page[LeaseInfo[Any]]:
        now = self._work.now
        leases = tuple(
            [
                LeaseInfo(
                    key=read_key(row.key),
                    token=row.place,
                    consumer=read_name(row.consumer),
                    since=row.since - now,
                    deadline=max(0.0, row.deadline - now),
                    deliveries=row.deliveries,
                    tenant=read_name(row.tenant),
                    priority=row.priority,
                    cancelled=row.cancelled is not None,
                )
                for row in self._work.items.leased(queue.id)
            ]
        )
        return Page(leases)

    def info(self, queue: Queue, _: object) -> QueueInfo:
        letters = self._work.queues.find(queue.letters) if queue.letters else None
        dead = None
        if letters is not None:
            dead = self._work.cursor.execute(
                "SELECT number FROM leaseq_letters WHERE queue = ? AND source = ?",
                (letters.id, queue.name),
            ).fetchone()
        return QueueInfo(
            name=queue.name,
            ready=queue.ready,
            delayed=queue.delayed,
            leased=queue.leased,
            dead=dead[0] if dead else 0,
            created_at=queue.created_at,
            dead_letters_of=(),
            paused=self._work.turns(queue).pause_of(b"") if queue.paused else None,
            paused_tenants=self._paused_tenants(queue),
        )

    def _paused_tenants(self, queue: Queue) -> dict[str, Paused]:
        found = self._work.turns(queue).all_pauses() if queue.paused_tenants else []
        return {read_name(tenant) or "": pause for tenant, pause in found}

    def read_history(self, queue: Queue, _: object) -> Page[HistoryEntry[Any, protocol.Body]]:
        rows = self._work.cursor.execute(
            "SELECT key, letter, body, token, deliveries, ended_at, ended FROM leaseq_history "
            "INDEXED BY leaseq_history_queue WHERE queue = ? ORDER BY id",
            (queue.id,),
        ).fetchall()
        entries = [
            HistoryEntry(read_key(key), read_body(Letter(body) if letter else body), *rest)
            for key, letter, body, *rest in rows
        ]
        return Page(tuple(entries))

    def find_lease(
        self, queue: Queue, find: protocol.FindLease
    ) -> protocol.FoundLease | Cancellation | None:
        cancelled = self._work.cancellation(queue, find.key, find.token)
        if cancelled is not None:
            return cancelled[1]
        row = self._work.held(queue, find.key, find.token)
        if row is None:
            return None
        return protocol.FoundLease(self._work.delivery(row), row.deadline - self._work.now)

    def find(self, queue: Queue, _: object) -> protocol.Declared:
        return _declared(queue)

    def list_queues(self, _: object) -> Page[protocol.Listed]:
        queues = enumerate(self._work.queues.all())
        return Page(tuple([protocol.Listed(number, *each) for number, each in queues]))

    # Changes of whole queues

    def declare(self, declare: protocol.Declare) -> protocol.Declared | None:
        name = declare.queue.name
        letters = "" if declare.queue.letters is None else declare.queue.letters.name
        group = declare.options.get("group")
        there = self._work.queues.find(letters) if letters else None
        found = self._work.queues.find(name)
        if found is None:
            if there is not None and there.options.get("group") != group:
                return None
            found = self._make(name, letters, declare.options)
        is_named = (found.letters, found.options.get("group")) == (letters, group)
        if letters and there is None and is_named:
            self._make(letters, "", {} if group is None else {"group": group})
        return _declared(found)

    def _make(self, name: str, letters: str, options: BrokerQueueOptions) -> Queue:
        work = self._work
        first_token = int(work.wall * 1e6) - 1
        stored = write_options(options)
        queue = work.queues.add(name, letters, stored, work.wall, first_token)
        for tenant, policy in (options.get("tenants") or {}).items():
            work.turns(queue).set_tenant(encode_name(tenant), policy)
        return queue

    def delete(self, queue: Queue, _: object) -> None:
        for process in self._parks.processes(queue):
            self._parks.tell(process, protocol.QueueDeleted(queue.name))
        self._work.flush()
        self._work.queues.remove(queue, OF_A_QUEUE)
        self._work.items.forget(queue.id)

    def purge(self, queue: Queue, _: object) -> protocol.Purged:
        work = self._work
        count = queue.waiting
        if not count:
            return protocol.Purged(0, 0)
        work.flush()
        waiting = "SELECT id FROM leaseq_items WHERE queue = ? AND state <> 2"
        execute = work.cursor.execute
        execute(f"DELETE FROM leaseq_bodies WHERE item IN ({waiting})", (queue.id,))
        execute("DELETE FROM leaseq_items WHERE queue = ? AND state <> 2", (queue.id,))
        work.items.forget(queue.id)
        execute("DELETE FROM leaseq_letters WHERE queue = ?", (queue.id,))
        for row in work.items.leased(queue.id):
            work.count_letter(queue, row, 1)
        if queue.fair:
            work.turns(queue).clear_ready()
        queue.ready = queue.delayed = 0
        queue.dropped += count
        return protocol.Purged(count, count)

    def redrive(self, queue: Queue, redrive: protocol.Redrive) -> protocol.Redriven | GoneError:
        work = self._work
        letters = work.queues.find(queue.letters) if queue.letters else None
        if letters is None:
            return GoneError()
        there = letters.ready
        wanted = None if redrive.keys is None else set(map(encode_key, redrive.keys))
        lot = work.items.ready(letters.id, _read_place(redrive.after), _LOT)
        last = None if len(lot) < _LOT else _write_place(lot[-1])
        back: list[Key] = []
        conflicts: list[Key] = []
        for row in lot:
            if redrive.limit is not None and len(back) >= redrive.limit:
                break
            if not row.letter:
                continue
            source, key = letter_origin(work.items.body(row))
            if source != queue.name or (wanted is not None and key not in wanted):
                continue
            is_back = work.bring_back(queue, letters, row)
            (back if is_back else conflicts).append(decode_key(key))
        return protocol.Redriven(tuple(back), tuple(conflicts), there, len(lot), last)

    def set_tenant(self, queue: Queue, change: protocol.SetTenant) -> None:
        tenant = encode_name(change.name)
        slots = self._work.turns(queue).set_tenant(tenant, change.tenant)
        self._free_slots(queue, tenant, slots)

    @staticmethod
    def _free_slots(queue: Queue, tenant: bytes, slots: int) -> None:
        """Note that so many more items of a tenant can be handed out, to wake processes for it."""
        queue.freed += [tenant] * min(slots, 1000)

    def pause(self, queue: Queue, pause: protocol.Pause) -> bool:
        tenant = encode_name(pause.tenant)
        return self._work.turns(queue).pause(tenant, pause.reason, self._work.wall)

    def resume(self, queue: Queue, resume: protocol.Resume) -> bool:
        tenant = encode_name(resume.tenant)
        slots = self._work.turns(queue).resume(tenant)
        if slots is None:
            return False
        if resume.tenant is None:
            self._parks.wake_after_pause(queue)
        self._free_slots(queue, tenant, slots)
        return True

    def release_all(self, queue: Queue, release: protocol.ReleaseAll) -> protocol.Released:
        consumer = encode_name(release.consumer)
        lost = [row for row in self._work.items.leased(queue.id) if row.consumer == consumer]
        for row in lost:
            if row.process != self._work.process:
                self._parks.tell(row.process, protocol.LeaseEnded(queue.name, row.place))
            self._work.revoke(queue, row)
        return protocol.Released(len(lost), None)


def no_room(why: str) -> ServerError:
    """Return the error for an operation that needs more of the disk than there is."""
    return ServerError(
        f"the disk is full ({why}): nothing was put; items that are there are still delivered and "
        "settled as far as there is room for it",
        code="OOM",
    )


def _alike(operations: Sequence[Operation[Any]], first: int) -> Sequence[Any]:
    """Return the operations from a place on that are of one kind and of one queue."""
    kind, name = type(operations[first]), operations[first].queue.name
    last = first + 1
    while last < len(operations):
        operation = operations[last]
        if type(operation) is not kind or operation.queue.name != name:
            break
        last += 1
    return operations[first:last]


def _declared(queue: Queue) -> protocol.Declared:
    options = read_options(write_options(queue.options))
    return protocol.Declared(queue.letters, options, made=queue.id)


def _write_place(row: Row) -> bytes:
    return b"%d %d %s" % (-row.priority, row.place, row.tenant)


def _read_place(after: bytes | None) -> tuple[bytes, int, int] | None:
    if after is None:
        return None
    urgency, place, tenant = after.split(b" ", 2)
    return tenant, int(urgency), int(place)


_GROWING: Final = frozenset({protocol.Put, protocol.KeepValues})
"""Operations that put something new, and are refused where little of the disk is free; so are
transactions with a put."""
_SEVERAL: Final[Mapping[type[Operation[Any]], Callable[[Exchange, Queue, Any], Any]]] = {
    protocol.Put: Exchange._put_several,
    protocol.Ack: Exchange._ack_several,
}
"""Short ways for several operations of one kind, or one."""
_OF_NO_QUEUE: Final[Mapping[type[Operation[Any]], Callable[[Exchange, Any], object]]] = {
    protocol.Transact: Exchange.transact,
    protocol.Declare: Exchange.declare,
    protocol.ListQueues: Exchange.list_queues,
    protocol.Abandon: Exchange.abandon,
}
_OF_A_QUEUE: Final[Mapping[type[Operation[Any]], Callable[[Exchange, Queue, Any], object]]] = {
    protocol.Put: Exchange.put,
    protocol.Claim: Exchange.claim,
    protocol.Ack: Exchange.ack,
    protocol.Release: Exchange.release,
    protocol.Reject: Exchange.reject,
    protocol.GiveBack: Exchange.give_back,
    protocol.Undo: Exchange.undo,
    protocol.Extend: Exchange.extend,
    protocol.HoldOn: Exchange.hold_on,
    protocol.Discard: Exchange.discard,
    protocol.Cancel: Exchange.cancel,
    protocol.Close: Exchange.close,
    protocol.KeepValues: Exchange.keep_values,
    protocol.Recall: Exchange.recall,
    protocol.StopWaiting: Exchange.stop_waiting,
    protocol.Sweep: Exchange.sweep,
    protocol.Wake: Exchange.wake,
    protocol.Unpark: Exchange.unpark,
    protocol.Parked: Exchange.parked,
    protocol.Join: Exchange.join,
    protocol.Look: Exchange.look,
    protocol.AvailableKeys: Exchange.available_keys,
    protocol.DelayedKeys: Exchange.delayed_keys,
    protocol.LeasedKeys: Exchange.leased_keys,
    protocol.Counts: Exchange.counts,
    protocol.CountTenants: Exchange.count_tenants,
    protocol.Held: Exchange.held,
    protocol.InFlight: Exchange.in_flight,
    protocol.Info: Exchange.info,
    protocol.ReadHistory: Exchange.read_history,
    protocol.FindLease: Exchange.find_lease,
    protocol.Find: Exchange.find,
    protocol.Delete: Exchange.delete,
    protocol.Purge: Exchange.purge,
    protocol.Redrive: Exchange.redrive,
    protocol.SetTenant: Exchange.set_tenant,
    protocol.Pause: Exchange.pause,
    protocol.Resume: Exchange.resume,
    protocol.ReleaseAll: Exchange.release_all,
}
