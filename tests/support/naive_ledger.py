"""A model of a queue's rules that is too simple to be wrong: it judges every engine.

The model keeps plain lists, and looks at all of them for everything. Each put that makes an item
gets a number, its ticket, by which the model knows at the end of each step where everything that
was ever put has gone. Whose turn it is between tenants it is told by the short functions of
`moves`: the tests of the schedule know that these are fair.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from math import inf

from leaseq import KeyAlreadyInFlightError, PutOutcome, Retry, Tenant
from leaseq._core.options import ANY_KEY
from leaseq._core.requests import ClaimRequest, PutRequest
from leaseq._rules.moves import (
    Fate,
    Turns,
    arrived,
    caught_up,
    ended,
    handed_out,
    left,
    next_tenant,
    paused,
    resumed,
    reweighed,
)

KEYS = "abcdef"
TENANTS = (None, "x", "y", "z")
Order = tuple[int, int]


@dataclass(eq=False)
class Job:
    """An item, wherever it is."""

    ticket: int
    key: str
    value: int
    tenant: str | None
    priority: int = 3
    deliveries: int = 0
    cancellations: int = 0
    expiries: int = 0
    order: Order = (0, 0)
    """Its place in line: 0 for those released to the front, 1 for those at their old place, 2 for
    all others; and its place among these."""
    ready_since: float = 0.0
    due: float = -inf
    rests_until: float = -inf
    dies_at: float = inf
    number: int = 0
    """Its place among those that wait and fall due at one time; 0: it has had no timer."""

    @property
    def seen(self) -> tuple[object, ...]:
        """What the ledger should show of it while it waits."""
        counts = (self.deliveries, self.cancellations, self.expiries)
        return self.key, self.value, self.tenant, self.priority, *counts


@dataclass(eq=False)
class Hold:
    """A job in a consumer's hands."""

    job: Job
    token: int
    deadline: float
    priority: int
    """That with which it returns."""
    update: int | None = None
    successor: Job | None = None
    cancelled: bool = False
    """Whether its lease has ended, while the holder has not."""

    @property
    def seen(self) -> tuple[object, ...]:
        """What the ledger should show of its lease."""
        job = self.job
        counts = (job.deliveries, job.cancellations)
        return job.key, job.value, self.token, self.deadline, job.tenant, job.priority, *counts


@dataclass
class Model:
    """Where every job is: each is in one of these lists, and in one place of it."""

    token: int
    retry: Retry
    caps: dict[str | None, int | None]
    ready: list[Job] = field(default_factory=list)
    delayed: list[Job] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    acked: list[Job] = field(default_factory=list)
    dead: list[Job] = field(default_factory=list)
    dropped: list[Job] = field(default_factory=list)
    superseded: list[Job] = field(default_factory=list)
    cancelled: list[Job] = field(default_factory=list)
    letters: list[tuple[object, ...]] = field(default_factory=list)
    """What was to be buried, whether or not it was."""
    fate: Fate = "dead"
    unburied: float = 60.0
    """How long an item rests that nobody buried, without a backoff."""
    put_so_far: int = 0
    placed: int = 0
    timers: int = 0
    fair: bool = False
    """Whether there are tenants."""
    turns: Turns = field(default_factory=Turns)
    paused: set[str | None] = field(default_factory=set)
    """The tenants that are; None: the queue."""
    events: list[str] = field(default_factory=list)
    """Each hand-out, and each end of a lease that is not an ack."""

    @property
    def successors(self) -> list[Job]:
        return [hold.successor for hold in self.holds if hold.successor is not None]

    @property
    def whereabouts(self) -> list[list[Job]]:
        held = [hold.job for hold in self.holds]
        gone = [self.acked, self.dead, self.dropped, self.superseded, self.cancelled]
        return [self.ready, self.delayed, held, self.successors, *gone]

    @property
    def deadlines(self) -> list[float]:
        """All that are to be remembered."""
        times = [
            *(hold.deadline for hold in self.holds),
            *(job.dies_at for job in self.ready),
            *(min(job.due, job.dies_at) for job in self.delayed),
        ]
        return [time for time in times if time < inf]

    def waiting(self, key: str) -> Job | None:
        return next((job for job in self.ready + self.delayed if job.key == key), None)

    def hold_on(self, key: str) -> Hold | None:
        return next((hold for hold in self.holds if hold.job.key == key), None)

    def state(self, key: str) -> str:
        if self.hold_on(key) is not None:
            return "leased"
        job = self.waiting(key)
        return "absent" if job is None else "ready" if job in self.ready else "delayed"

    def newest_value(self, key: str) -> int | None:
        if (job := self.waiting(key)) is not None:
            return job.value
        if (hold := self.hold_on(key)) is None:
            return None
        if hold.successor is not None:
            return hold.successor.value
        return hold.job.value if hold.update is None else hold.update

    # Whose turn it may be

    def in_flight(self, tenant: str | None) -> int:
        return sum(hold.job.tenant == tenant for hold in self.holds)

    def capped(self, tenant: str | None) -> bool:
        if tenant is not None and tenant in self.paused:
            return True
        cap = self.caps.get(tenant)
        return cap is not None and self.in_flight(tenant) >= cap

    def next_of(self, tenants: Collection[str | None] | None) -> list[Job]:
        """The item that is next, of some tenants or of anybody's, if there is one."""
        if None in self.paused:
            return []
        lines = {
            tenant: sorted(
                (job for job in self.ready if job.tenant == tenant),
                key=lambda job: (-job.priority, job.order),
            )
            for tenant in (TENANTS if tenants is None else tenants)
            if not self.capped(tenant)
        }
        firsts = {tenant: line[0] for tenant, line in lines.items() if line}
        if not firsts:
            return []
        if not self.fair:
            return [firsts[None]]
        ranks = {tenant: job.order for tenant, job in firsts.items()}
        return [firsts[next_tenant(self.turns, ranks, tenants)]]

    def may_be_next(self, request: ClaimRequest[str]) -> list[Job]:
        if request.key is not ANY_KEY:
            wanted = [job for job in self.ready if job.key == request.key]
            if None in self.paused:
                return []
            return [job for job in wanted if not self.capped(job.tenant)]
        if request.tenants is None:
            return self.next_of(None)
        return self.next_of(request.tenants) or self.next_of(request.steal_from)

    def look(self, request: ClaimRequest[str]) -> None:
        """What asking for an item does, whether or not it is handed out."""
        if not request.restricted and self.ready and None not in self.paused:
            self.turns = caught_up(self.turns)

    def begin(self) -> None:
        """From now on there are tenants."""
        if not self.fair:
            self.fair = True
            for job in self.ready:
                self.turns = arrived(self.turns, job.tenant)
            for hold in self.holds:
                account = self.turns.of(hold.job.tenant)
                account = replace(account, in_flight=account.in_flight + 1)
                self.turns = Turns(
                    self.turns.virtual, {**self.turns.accounts, hold.job.tenant: account}
                )

    def set_tenant(self, tenant: str | None, policy: Tenant) -> None:
        self.begin()
        self.caps[tenant] = policy.max_in_flight
        self.turns = reweighed(self.turns, tenant, policy)

    def pause(self, tenant: str | None) -> None:
        self.paused.add(tenant)
        if tenant is not None:
            self.turns = paused(self.turns, tenant)

    def resume(self, tenant: str | None) -> bool:
        """Whether it was paused."""
        if tenant not in self.paused:
            return False
        self.paused.remove(tenant)
        if tenant is not None:
            self.turns = resumed(self.turns, tenant)
        return True

    def lose_ready(self, job: Job) -> None:
        """A job is not ready any more, but not handed out either."""
        self.ready.remove(job)
        if self.fair:
            self.turns = left(self.turns, job.tenant)

    def lose_hold(self, hold: Hold) -> None:
        self.holds.remove(hold)
        if self.fair:
            self.turns = ended(self.turns, hold.job.tenant)

    # What falls due

    def next_due(self, now: float) -> Hold | Job | None:
        """What happens next by itself, of what is due."""
        things: list[tuple[float, int, int, Hold | Job]] = [
            *((hold.deadline, 0, hold.token, hold) for hold in self.holds),
            *((job.dies_at, 1, job.number, job) for job in self.ready if job.dies_at < inf),
            *((min(job.due, job.dies_at), 1, job.number, job) for job in self.delayed),
        ]
        first = min(things, key=lambda thing: thing[:3], default=None)
        return None if first is None or first[0] > now else first[3]

    def give_number(self, job: Job) -> None:
        if not job.number:
            self.timers += 1
            job.number = self.timers

    # The moves

    def put(
        self, key: str, value: int, now: float, terms: PutRequest
    ) -> PutOutcome | type[Exception]:
        """What the put does, or is refused with."""
        hold, job = self.hold_on(key), self.waiting(key)
        if hold is not None and terms.if_in_flight == "reject":
            return KeyAlreadyInFlightError
        there = job or (hold.job if hold else None)
        if there is not None and terms.tenant not in (None, there.tenant):
            return ValueError
        if job is not None:
            self.replace(job, value, now, terms)
            return PutOutcome.REPLACED
        if hold is not None:
            return self.put_in_flight(hold, value, now, terms)
        job = self.new_job(key, value, terms.tenant)
        if terms.priority is not None:
            job.priority = terms.priority
        job.dies_at = now + terms.ttl
        self.wait(job, now, now + terms.delay)
        return PutOutcome.ADDED

    def new_job(self, key: str, value: int, tenant: str | None) -> Job:
        self.put_so_far += 1
        return Job(self.put_so_far, key, value, tenant)

    def replace(self, job: Job, value: int, now: float, terms: PutRequest) -> None:
        job.value = value
        if terms.ttl < inf:
            job.dies_at = now + terms.ttl
            self.give_number(job)
        higher = terms.priority is not None and terms.priority > job.priority
        if higher:
            assert terms.priority is not None
            job.priority = terms.priority
        due = now + terms.delay
        if job in self.delayed:
            self.delayed.remove(job)
            if terms.reschedule == "earliest":
                due = min(due, job.due)
            self.wait(job, now, max(due, job.rests_until))
        elif higher or (terms.reschedule == "latest" and due > now):
            self.lose_ready(job)
            self.wait(job, now, due if terms.reschedule == "latest" else now)

    def put_in_flight(self, hold: Hold, value: int, now: float, terms: PutRequest) -> PutOutcome:
        if terms.priority is not None:
            hold.priority = max(hold.priority, terms.priority)
        due = now + terms.delay
        successor = hold.successor
        if successor is None:
            if terms.if_in_flight == "update" and not hold.cancelled:
                hold.update = value
                return PutOutcome.UPDATED_IN_FLIGHT
            successor = hold.successor = self.new_job(hold.job.key, value, hold.job.tenant)
            successor.due = due
        elif terms.reschedule == "latest":
            successor.due = due
        else:
            successor.due = min(successor.due, due)
        successor.value = value
        if terms.ttl < inf:
            successor.dies_at = now + terms.ttl
        return PutOutcome.BUFFERED

    def hand_out(self, job: Job, now: float, timeout: float, *, restricted: bool = False) -> None:
        self.ready.remove(job)
        if self.fair:
            self.turns = handed_out(self.turns, job.tenant, restricted=restricted)
        job.number = 0
        self.events.append("handed out")
        self.token += 1
        job.deliveries += 1
        self.holds.append(Hold(job, self.token, now + timeout, job.priority))

    def fall_due(self, job: Job, now: float) -> None:
        """What a tick does to a job that waits."""
        if job in self.ready:
            self.lose_ready(job)
        else:
            self.delayed.remove(job)
        if job.dies_at <= now:
            self.die(job, None, now, "expired", None)
        else:
            self.wait(job, now, now)

    def ack(self, hold: Hold, now: float) -> bool:
        self.lose_hold(hold)
        self.acked.append(hold.job)
        if hold.successor is None:
            return hold.update is not None
        self.succeed(hold, hold.successor, now)
        return False

    def release(
        self, hold: Hold, now: float, *, front: bool, delay: float | None, counted: bool
    ) -> None:
        job = hold.job
        self.events.append("released")
        if not counted:
            self.uncount(hold)
        elif self.retry.exhausted(job.deliveries):
            self.die(job, hold, now, "max_deliveries", "broken")
            return
        if delay is None:
            delay = self.retry.delay(job.deliveries) if counted and not front else 0.0
        job.cancellations = 0
        self.go_back(hold, now, self.front() if front else None, delay)

    def give_back(self, hold: Hold, now: float) -> None:
        self.events.append("given back")
        self.uncount(hold)
        hold.job.cancellations += 1
        self.go_back(hold, now, (1, hold.token) if hold.job.cancellations == 1 else None)

    def cancel(self, key: str, *, keep_successor: bool) -> bool:
        """Whether there was something to cancel."""
        if (job := self.waiting(key)) is not None:
            self.drop(job)
            self.cancelled.append(self.dropped.pop())
            return True
        if (hold := self.hold_on(key)) is None:
            return False
        has_dropped = hold.successor is not None and not keep_successor
        if hold.successor is not None and has_dropped:
            self.cancelled.append(hold.successor)
            hold.successor = None
        if hold.successor is None and not hold.cancelled:
            hold.priority = hold.job.priority
        was_cancelled, hold.cancelled, hold.update = hold.cancelled, True, None
        return has_dropped or not was_cancelled

    def wind_up(self, hold: Hold, now: float) -> bool:
        """Whether the lease was cancelled, and so its end is that of the item."""
        if hold.cancelled:
            self.lose_hold(hold)
            self.cancelled.append(hold.job)
            if hold.successor is not None:
                self.succeed(hold, hold.successor, now)
        return hold.cancelled

    def undo(self, hold: Hold, now: float) -> None:
        if self.wind_up(hold, now):
            return
        dies_at = hold.job.dies_at
        self.uncount(hold)
        self.go_back(hold, now, (1, hold.token), dies_at=dies_at)

    def expire(self, hold: Hold, now: float) -> None:
        if self.wind_up(hold, now):
            return
        job = hold.job
        self.events.append("expired")
        job.cancellations = 0
        if self.retry.exhausted(job.deliveries):
            self.die(job, hold, now, "max_deliveries", None)
            return
        job.expiries += 1
        if job.expiries == 1:
            self.go_back(hold, now, (1, hold.token))
        else:
            self.go_back(hold, now, None, self.retry.delay(job.deliveries))

    def revoke(self, hold: Hold, now: float) -> None:
        """Its consumer is gone: as if the lease had expired."""
        if self.wind_up(hold, now):
            return
        self.expire(hold, now)
        self.events.remove("expired")
        self.events.append("released")

    def reject(self, hold: Hold, now: float) -> None:
        self.die(hold.job, hold, now, "bad", None)

    def close(self, now: float) -> list[Hold]:
        lost = self.holds.copy()
        for hold in lost:
            if self.wind_up(hold, now):
                continue
            self.uncount(hold)
            self.go_back(hold, now, (1, hold.token))
        return lost

    def drop_all(self) -> None:
        for job in self.ready + self.delayed:
            self.drop(job)

    def drop(self, job: Job) -> None:
        self.dropped.append(job)
        if job in self.delayed:
            self.delayed.remove(job)
        else:
            self.lose_ready(job)

    # How a job comes to wait, and leaves its lease

    def wait(self, job: Job, now: float, due: float, order: Order | None = None) -> None:
        self.placed += 1
        job.due = due
        if due > now or job.dies_at < inf:
            self.give_number(job)
        else:
            job.number = 0
        if due > now:
            self.delayed.append(job)
            return
        job.order = (2, self.placed) if order is None else order
        job.ready_since = now
        if job.tenant is not None:
            self.begin()
        self.ready.append(job)
        if self.fair:
            self.turns = arrived(self.turns, job.tenant)

    def front(self) -> Order:
        self.placed += 1
        return 0, -self.placed

    def uncount(self, hold: Hold) -> None:
        self.events.remove("handed out")
        hold.job.deliveries -= 1

    def go_back(
        self,
        hold: Hold,
        now: float,
        order: Order | None,
        delay: float = 0.0,
        dies_at: float = inf,
    ) -> None:
        self.lose_hold(hold)
        job = hold.job
        if hold.successor is not None:
            self.superseded.append(job)
            self.succeed(hold, hold.successor, now)
            return
        if hold.update is not None:
            job.value = hold.update
        job.priority = hold.priority
        job.dies_at = dies_at
        job.rests_until = now + delay
        self.wait(job, now, now + delay, order)

    def succeed(self, hold: Hold, successor: Job, now: float) -> None:
        successor.priority = hold.priority
        self.wait(successor, now, successor.due)

    def die(self, job: Job, hold: Hold | None, now: float, reason: str, error: str | None) -> None:
        updated = hold is not None and hold.successor is None and hold.update is not None
        value = hold.update if hold is not None and updated else job.value
        self.letters.append((job.key, value, reason, error))
        if self.fate == "kept":
            job.cancellations = 0
            delay = self.unburied if self.retry.backoff is None else self.retry.backoff.ceiling
            if hold is not None:
                self.go_back(hold, now, None, delay)
            else:
                job.dies_at = inf
                job.number = 0
                job.rests_until = now + delay
                self.wait(job, now, now + delay)
            return
        (self.dead if self.fate == "dead" else self.dropped).append(job)
        if hold is not None:
            self.lose_hold(hold)
            if hold.successor is not None:
                self.succeed(hold, hold.successor, now)
