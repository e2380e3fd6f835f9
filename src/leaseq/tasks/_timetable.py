"""The schedules of a task queue in its broker, and the part of a worker that runs them.

A schedule is two items, in two queues beside the task queue, in its group:

- the *alarm*, in ``<name>.schedules``: its key is the name of the schedule, it has no value, and it
  is delayed to the next slot. The worker that leases it looks what is to be done. An alarm that
  comes too early, or for a schedule that is gone, does no harm;
- the *terms*, in ``<name>.schedules.terms``, under the same key: the options, the task, and the
  next slot. They are read and written under their own lease alone: by a worker that has an alarm,
  and by each call that changes the schedule. So no two of them ever decide on one slot, and none
  overwrites what another has written.

With a slot, its run, the terms with the next slot and the next alarm are put in one transaction,
which ends both leases. If the worker dies before, the leases expire, and nothing has happened; if
it has lost them meanwhile, the transaction is refused.

Schedules are made under the lease of an item that they all share, since there are no terms yet to
be leased. Beside it is the highest version of the code whose schedules were stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from logging import INFO, WARNING
from math import inf
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
from anyio import Event, create_task_group, current_time, move_on_after, sleep
from msgspec import structs

from .._core.errors import LeaseqError, QueueClosedError, TransactionError
from .._core.ids import new_id
from .._core.log import log
from .._core.options import BrokerQueueOptions, PutOptions
from .._core.policies import Backoff, Retry
from .._core.queue_options import schedule_alarms, schedule_terms
from .._core.texts import failure_text
from .._pool import serve
from ..abc import Broker, LeasedQueue
from ..abc._lease import Lease
from ._clock import wall_time
from ._schedules import Stored, Terms, decode_schedule, encode_schedule, run_key, run_of
from ._slots import MOST_RUNS, Rule, Step, count_slots, decide, due_at, next_slot, slot_text

_LEASE: Final = 15.0  # seconds until the schedule of a worker that died goes to another one
_LONGEST_REST: Final = 30.0  # seconds until an alarm is tried again that has failed
_BUSY: Final = 0.25  # seconds until an alarm is tried again whose terms are in other hands
_PATIENCE: Final = 5.0  # seconds until a call looks whether the terms are still there
_DAY: Final = 86_400.0  # the longest delay of an alarm: then the clock is looked at again
_CONCURRENCY: Final = 4  # alarms that a worker looks after at a time
_WATCH_EVERY: Final = 30.0  # seconds between two looks at the wall clock
_STEP: Final = 1.0  # seconds by which it has been set, if it has
_LOOK_EVERY: Final = 60.0  # seconds between two looks whether another process has made schedules
_LOCK_EVERY: Final = 1.0  # seconds between two tries for what all schedules have in common
_FAR: Final = 3.2e8  # seconds: ten years
_COUNTED: Final = 1000  # slots of an expression that are counted for the log
_LOT: Final = 1_000_000  # bytes of the runs that are put in one step

_LOCK: Final = b"lock"
_NEWEST: Final = b"version"

_made: WeakKeyDictionary[Broker, set[Event]] = WeakKeyDictionary()
"""In this process: the workers that wait for the first schedule of a broker."""


class Timetable:
    """The schedules of a task queue.

    Args:
        broker: The broker.
        queue: The task queue.
        alarms: The queue of the alarms.
        terms: The queue of the terms.
    """

    __slots__ = ("_alarms", "_broker", "_queue", "_terms")

    def __init__(
        self,
        broker: Broker,
        queue: LeasedQueue[str, Any],
        alarms: LeasedQueue[str, None],
        terms: LeasedQueue[str | bytes, Any],
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._alarms = alarms
        self._terms = terms

    @classmethod
    async def make(cls, broker: Broker, queue: LeasedQueue[str, Any]) -> Timetable:
        """Return the schedules of a task queue, whose queues are made if they do not exist."""
        options: BrokerQueueOptions = {"default_lease_timeout": _LEASE, "group": queue.group}
        terms = await broker.queue(schedule_terms(queue.name), **options)
        options["retry"] = Retry(backoff=Backoff(1.0, ceiling=_LONGEST_REST))
        alarms = await broker.queue(schedule_alarms(queue.name), **options)
        for event in _made.pop(broker, ()):
            event.set()
        return cls(broker, queue, alarms, terms)

    @classmethod
    async def find(cls, broker: Broker, queue: LeasedQueue[str, Any]) -> Timetable | None:
        """Return the schedules of a task queue; None: there never was one."""
        try:
            terms = await broker.queue(schedule_terms(queue.name), make=False)
            alarms = await broker.queue(schedule_alarms(queue.name), make=False)
        except (LookupError, ValueError):  # or there can be none: the name is too long for them
            return None
        return cls(broker, queue, alarms, terms)

    # Calls

    async def names(self) -> list[str]:
        """Return the names of all schedules, in their order."""
        found: set[object] = {*await self._terms.available_keys()}
        found |= await self._terms.inflight_keys()
        found |= await self._terms.available_keys()  # one that was leased, and no longer is
        return sorted(name for name in found if isinstance(name, str))

    async def values(self) -> list[tuple[str, object]]:
        """Return the names of all schedules, and the values that the broker holds for them."""
        found = [(name, (await self._terms._look(name))[1]) for name in await self.names()]
        return [each for each in found if each[1] is not None]

    async def all(self) -> dict[str, Stored]:
        """Return all schedules by name."""
        return {name: decode_schedule(name, value) for name, value in await self.values()}

    async def store(self, name: str, terms: Terms) -> Stored | None:
        """Make a schedule, or give the one of this name other terms.

        Returns:
            The schedule. None: it is of a newer version of the code, or such a version has taken it
            out; or it has no slots any more.
        """

        def change(stored: Stored) -> Stored | None:
            if terms.declared and _is_older(terms.version, stored.version):
                return stored
            rule = terms.rule
            changed = structs.replace(
                stored,
                rule=rule,
                task=terms.task,
                ttl=terms.ttl,
                declared=terms.declared,
                version=terms.version,
                going=[] if rule.overlap == "allow" else stored.going,
            )
            if rule.has_slots_of(stored.rule):
                return changed
            slot = next_slot(rule, _after_now(stored))
            return None if slot is None else structs.replace(changed, slot=slot, held=False)

        while True:
            if await self._terms.state(name) != "absent":
                found, stored = await self._change(name, change)
                if found:
                    return stored
                continue
            async with self._lock():
                if await self._terms.state(name) != "absent":
                    continue
                if terms.declared and _is_older(terms.version, await self._newest()):
                    return None
                now = wall_time()
                slot = next_slot(terms.rule, now)
                if slot is None:
                    return None
                made = Stored(
                    rule=terms.rule,
                    task=terms.task,
                    made_at=now,
                    slot=slot,
                    ttl=terms.ttl,
                    declared=terms.declared,
                    version=terms.version,
                )
                async with self._broker.transaction() as step:
                    step.put(self._terms, name, encode_schedule(made))
                    step.put(self._alarms, name, None, delay=_rest(name, made, now))
                return made

    async def remove(self, name: str, *, older_than: int | None = None) -> bool:
        """Take a schedule out; return True if there was one.

        Args:
            name: Its name.
            older_than: Only if it was declared by an older version of the code than this one.
        """

        def change(stored: Stored) -> Stored | None:
            if older_than is not None:
                older = stored.declared and _is_older(stored.version, older_than)
                return None if older else stored
            return None

        found, stored = await self._change(name, change)
        return found and stored is None

    async def pause(self, name: str, reason: str) -> bool:
        """Have a schedule run no slots; return True if there is one."""

        def change(stored: Stored) -> Stored:
            since = wall_time() if stored.paused is None else stored.paused
            return structs.replace(stored, paused=since, reason=reason)

        return (await self._change(name, change))[0]

    async def resume(self, name: str) -> bool:
        """Have a schedule run its slots again, from now on; return True if there is one."""

        def change(stored: Stored) -> Stored | None:
            if stored.paused is None:
                return stored
            slot = next_slot(stored.rule, _after_now(stored))
            if slot is None:
                return None
            return structs.replace(stored, slot=slot, held=False, paused=None, reason="")

        return (await self._change(name, change))[0]

    async def run_now(self, name: str) -> tuple[str, dict[str, Any]] | None:
        """Put a run of a schedule beside those of its slots; None: there is no such schedule.

        Returns:
            The key and the value of the run.
        """
        async with self._hold(name) as lease:
            if lease is None:
                return None
            stored = decode_schedule(name, lease.value)
            stored = structs.replace(stored, going=await self._going(stored))
            now = round(wall_time(), 3)
            key = f"{run_key(name, now)}.{new_id()[:8]}"
            wire = run_of(name, stored, key, now, now)
            async with self._broker.transaction() as step:
                step.put(self._queue, key, wire, **_put_options(stored))
                step.ack(lease)
                changed = stored.with_runs([key])
                step.put(self._terms, name, encode_schedule(changed, lease.value))
        return key, wire

    async def _change(
        self, name: str, change: Callable[[Stored], Stored | None]
    ) -> tuple[bool, Stored | None]:
        """Change a schedule under its lease.

        Args:
            name: Its name.
            change: Returns the schedule as it is to be; None: take it out.

        Returns:
            True if there is such a schedule, and the schedule as it is now.
        """
        async with self._hold(name) as lease:
            if lease is None:
                return False, None
            stored = decode_schedule(name, lease.value)
            changed = change(stored)
            if changed == stored:
                await lease.release(counted=False)
                return True, stored
            async with self._broker.transaction() as step:
                step.ack(lease)
                rest = 0.0
                if changed is not None:
                    step.put(self._terms, name, encode_schedule(changed, lease.value))
                    rest = _rest(name, changed, wall_time())
                # Of one that is gone the alarm comes now, and is no more.
                step.put(self._alarms, name, None, delay=rest)
        return True, changed

    @asynccontextmanager
    async def _hold(self, name: str) -> AsyncIterator[Lease[str | bytes, Any] | None]:
        """Lease the terms of a schedule; None: there is none."""
        while await self._terms.state(name) != "absent":
            try:
                _, _, lease = await self._terms.take(name, _PATIENCE)
            except TimeoutError:
                continue
            async with lease:
                yield lease
            return
        yield None

    @asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        """Lease what the making of all schedules has in common; it is there for that time alone."""
        while True:
            # One successor at a time waits behind a lease: whoever was second puts it once more.
            await self._terms.put(_LOCK, None, if_in_flight="buffer")
            try:
                _, _, lease = await self._terms.take(_LOCK, _LOCK_EVERY)
            except TimeoutError:
                continue
            break
        async with lease:
            yield

    async def _newest(self) -> int | None:
        """Return the highest version of the code whose schedules were stored."""
        _, value = await self._terms._look(_NEWEST)
        return value if isinstance(value, int) else None

    # The code

    async def reconcile(self, declared: Mapping[str, Terms], version: int | None) -> None:
        """Store the schedules that the code declares, and take out those it no longer does.

        A version of the code leaves everything as it is once a newer one was here. One without a
        number takes nothing out.
        """
        is_old = False
        if declared or version is not None:
            async with self._lock():
                newest = await self._newest()
                is_old = _is_older(version, newest)
                if not is_old and version != newest:
                    # It is looked at, and never leased.
                    await self._terms.put(_NEWEST, version, delay=_FAR, reschedule="latest")
        if is_old:
            log(
                INFO,
                "the schedules of %r are those of version %d, and not of this code's, %r",
                self._queue.name,
                newest,
                version,
            )
        else:
            for name, terms in declared.items():
                await self.store(name, terms)
            if version is not None:
                for name in await self.names():
                    if name not in declared and await self.remove(name, older_than=version):
                        log(INFO, "the schedule %r is no longer in the code, and is gone", name)
        await self.ring(missing=True)

    async def ring(self, *, missing: bool = False) -> None:
        """Have all schedules looked at now.

        Args:
            missing: Only those without an alarm, such as after a purge.
        """
        for name in await self.names():
            if not missing or await self._alarms.state(name) == "absent":
                await self._alarms.put(name, None)

    # A worker

    async def run(self, consumer: str) -> None:
        """Run what is due, until the broker is closed or the task queue shut down.

        Args:
            consumer: The name of the worker.
        """
        stop = Event()

        async def fire(alarm: Lease[str, None]) -> None:
            try:
                await self.fire(alarm)
            except TransactionError as error:
                if not any(isinstance(each, QueueClosedError) for each in error.failures):
                    raise
                stop.set()  # nothing can be run any more
                if alarm.ended is None:
                    await alarm.release(delay=_LONGEST_REST, counted=False)

        async def look_after_alarms() -> None:
            await serve(
                self._alarms, fire, _CONCURRENCY, consumer=consumer, heartbeat=True, stop=stop
            )

        await beside(look_after_alarms, self._watch_clock)

    async def fire(self, alarm: Lease[str, None]) -> None:
        """Look what is to be done with the schedule of an alarm, and do it."""
        name = alarm.key
        if await self._terms.state(name) == "absent":
            return
        try:
            _, _, lease = await self._terms.take(name, 0)
        except TimeoutError:
            await alarm.release(delay=_BUSY, counted=False)
            return
        async with lease:
            stored = decode_schedule(name, lease.value)
            now = wall_time()
            if stored.paused is not None:
                step = Step((), stored.slot, stored.held, inf)
            else:
                if stored.going:
                    stored = structs.replace(stored, going=await self._going(stored))
                step = decide(
                    name,
                    stored.rule,
                    stored.slot,
                    now,
                    held=stored.held,
                    busy=bool(stored.going),
                    most=_most_runs(stored),
                )
            await self._do(name, stored, step, now, alarm, lease)
        if step.left_out is not None:
            _tell_left_out(name, stored.rule, *step.left_out)

    async def _do(
        self,
        name: str,
        stored: Stored,
        step: Step,
        now: float,
        alarm: Lease[str, None],
        lease: Lease[str | bytes, Any],
    ) -> None:
        """Put the runs of a step, the terms with the next slot and the next alarm, all in one."""
        keys = [run_key(name, slot) for slot in step.runs]
        async with self._broker.transaction() as transaction:
            for key, slot in zip(keys, step.runs, strict=True):
                wire = run_of(name, stored, key, slot, now)
                transaction.put(self._queue, key, wire, **_put_options(stored))
            transaction.ack(lease)
            transaction.ack(alarm)
            if step.slot is not None:
                last = step.runs[-1] if step.runs else None
                changed = structs.replace(
                    stored.with_runs(keys, last), slot=step.slot, held=step.held
                )
                transaction.put(self._terms, name, encode_schedule(changed, lease.value))
                rest = min(max(step.at - now, 0.0), _DAY)
                transaction.put(self._alarms, name, None, delay=rest)
        if step.slot is None:
            log(INFO, "the schedule %r has had its last slot, and is gone", name)

    async def _going(self, stored: Stored) -> list[str]:
        """Return the keys of the runs of a schedule that are not done."""
        return [key for key in stored.going if await self._queue.state(key) != "absent"]

    async def _watch_clock(self) -> None:
        """Have all schedules looked at when the wall clock was set: alarms go by another clock."""
        before = wall_time() - current_time()
        while True:
            await sleep(_WATCH_EVERY)
            shift = wall_time() - current_time()
            if abs(shift - before) > _STEP:
                by = shift - before
                log(WARNING, "the clock was set by %.0f s: all schedules are looked at", by)
                with leaving_outages():
                    await self.ring()
                    before = shift
            else:
                before = shift


async def until_made(broker: Broker, look: Callable[[], Awaitable[Timetable | None]]) -> Timetable:
    """Wait for the first schedule of a task queue: in this process, or in another one."""
    while True:
        event = Event()
        _made.setdefault(broker, set()).add(event)
        try:
            with leaving_outages():
                found = await look()
                if found is not None:
                    return found
            with move_on_after(_LOOK_EVERY if broker._is_shared else inf):
                await event.wait()
        finally:
            _made.get(broker, set()).discard(event)


@contextmanager
def leaving_outages() -> Iterator[None]:
    """Leave what the server did not do: it is tried again. A broker that is closed is closed."""
    try:
        yield
    except QueueClosedError:
        raise
    except LeaseqError as error:
        log(INFO, "schedules are looked at later: %s", failure_text(error))


async def beside(main: Callable[[], Awaitable[None]], other: Callable[[], Awaitable[None]]) -> None:
    """Run a function until it ends, and another one beside it until then.

    An error of either ends both, and is raised without a group around it.
    """
    failed: list[Exception] = []

    async def run_other() -> None:
        try:
            await other()
        except QueueClosedError:
            pass  # as the first one will be told
        except Exception as error:
            failed.append(error)
            tg.cancel_scope.cancel()

    async with create_task_group() as tg:
        tg.start_soon(run_other)
        try:
            await main()
        except Exception as error:
            failed.insert(0, error)
        tg.cancel_scope.cancel()
    if failed:
        raise failed[0]


def _after_now(stored: Stored) -> float:
    """Return the time after which a schedule begins anew: no slot that was run comes again."""
    return wall_time() if stored.last is None else max(wall_time(), stored.last)


def _is_older(version: int | None, than: int | None) -> bool:
    """Return True if a version of the code is older than another one; None: it has no number."""
    return than is not None and (version is None or version < than)


def _rest(name: str, stored: Stored, now: float) -> float:
    """Return the seconds until a schedule is to be looked at."""
    return min(max(due_at(name, stored.rule, stored.slot) - now, 0.0), _DAY)


def _put_options(stored: Stored) -> PutOptions:
    options: PutOptions = {}
    if (priority := stored.task.get("priority")) is not None:
        options["priority"] = priority
    if (tenant := stored.task.get("tenant")) is not None:
        options["tenant"] = tenant
    if stored.ttl is not None:
        options["ttl"] = stored.ttl
    return options


def _tell_left_out(name: str, rule: Rule, first: float, last: float) -> None:
    count = count_slots(rule, first, last, _COUNTED + 1)
    if count == 1:
        log(WARNING, "the schedule %r leaves out the slot %s", name, slot_text(first))
        return
    number = f"more than {_COUNTED}" if rule.cron and count > _COUNTED else str(count)
    since, until = slot_text(first), slot_text(last)
    log(WARNING, "the schedule %r leaves out %s slots, from %s to %s", name, number, since, until)


def _most_runs(stored: Stored) -> int:
    """Return the number of runs that are put in one step."""
    if stored.rule.overlap != "allow":
        return 1
    size = len(msgspec.json.encode(stored.task)) + 500
    return max(1, min(MOST_RUNS, _LOT // size))
