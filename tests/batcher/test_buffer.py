"""The rule of the batches: which items go together, and when."""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from leaseq import Backoff, Retry
from leaseq._batcher.buffer import Batch, Buffer

INTERVAL = 10.0


def batches_of(size: int, capacity: float = inf, retry: Retry | None = None) -> Buffer[int, str]:
    batches: Buffer[int, str] = Buffer(size, INTERVAL, capacity, retry or Retry())
    batches.open = True
    return batches


def cut(batches: Buffer[int, str], now: float) -> list[int] | None:
    """The items that go now; as flushed."""
    batch = batches.take(batches.end_of_due(now), now)
    if batch is None:
        return None
    batches.remove(batch)
    return batch.items


def test_a_full_batch_is_due_at_once() -> None:
    batches = batches_of(2)
    batches.add([1], 0.0)
    assert batches.next_deadline() == INTERVAL
    batches.add([2], 0.0)
    assert batches.next_deadline() == -inf
    assert cut(batches, 0.0) == [1, 2]
    assert batches.next_deadline() == inf


def test_a_short_batch_is_due_an_interval_after_its_first_item() -> None:
    batches = batches_of(3)
    batches.add([1], 1.0)
    batches.add([2], 5.0)
    assert batches.next_deadline() == 11.0
    assert cut(batches, 10.9) is None
    assert cut(batches, 11.0) == [1, 2]


def test_the_time_of_a_short_batch_behind_full_ones_is_that_of_its_own_first_item() -> None:
    batches = batches_of(3)
    batches.add([1, 2], 0.0)
    batches.add([3, 4], 5.0)
    batches.add([5], 7.0)
    assert cut(batches, 10.0) == [1, 2, 3]
    assert cut(batches, 10.0) is None
    assert batches.next_deadline() == 15.0


def test_a_batch_that_failed_rests_and_nothing_passes_it() -> None:
    batches = batches_of(2, retry=Retry(backoff=Backoff(base=8.0, seed=1)))
    batches.add([1, 2, 3, 4], 0.0)
    batch = batches.take(4, 0.0)
    assert batch is not None
    batches.failed(batch, OSError(), 0.0)
    assert batches.next_deadline() == batch.due == Backoff(base=8.0, seed=1).delay(1)
    assert batches.take(4, batch.due - 0.001) is None
    assert batches.take(4, batch.due) is batch


def test_items_do_not_join_a_short_batch_that_was_cut_off() -> None:
    batches = batches_of(3)
    batches.add([1], 0.0)
    batch = batches.take(batches.end(short=True), 0.0)
    batches.add([2], 0.0)
    assert batch is batches.take(batches.end(short=True), 0.0)
    assert batch.items == [1]
    assert list(batches) == [1, 2]


def test_a_producer_comes_behind_those_who_wait_even_if_there_is_room_for_it() -> None:
    batches = batches_of(2, capacity=2)
    batches.add([1], 0.0)
    batches.wait("wants two", 2)
    assert not batches.room(1)
    assert list(batches.admit()) == []
    assert cut(batches, INTERVAL) == [1]
    assert list(batches.admit()) == ["wants two"]
    assert not batches.room(1)
    assert batches.leave("wants two")
    assert batches.room(2)


def test_an_item_is_spare_if_it_neither_begins_a_batch_nor_fills_one() -> None:
    batches = batches_of(4)
    spare = []
    for number in range(6):
        spare.append(batches.spare)
        batches.add([number], 0.0)
    assert spare == [0, 2, 1, 0, 0, 2]


def test_no_more_are_spare_than_there_is_room() -> None:
    batches = batches_of(10, capacity=3)
    batches.add([1], 0.0)
    assert batches.spare == 2
    batches.wait("a producer", 3)
    assert batches.spare == 0


class Model(RuleBasedStateMachine):
    """The rule beside the plainest one there is: a list of batches that says what it means."""

    @initialize(size=st.integers(1, 5), capacity=st.sampled_from([inf, 4, 7]))
    def begin(self, size: int, capacity: float) -> None:
        self.size = size
        self.capacity = capacity
        retry = Retry(max_deliveries=3, backoff=Backoff(base=5.0, seed=0))
        self.batches = batches_of(size, capacity, retry)
        self.backoff = Backoff(base=5.0, seed=0)
        self.now = 0.0
        self.added = 0
        self.settled: list[int] = []
        self.line: list[tuple[int, float]] = []  # items and when they came
        self.cut: list[Batch[int]] = []
        self.due = -inf
        self.deliveries = 0
        self.producers = 0
        self.waiting: list[tuple[str, int]] = []
        self.admitted: dict[str, int] = {}

    def reserved(self) -> int:
        return sum(self.admitted.values())

    def pending(self) -> list[int]:
        return [item for batch in self.cut for item in batch.items] + [
            item for item, _ in self.line
        ]

    def put(self, count: int) -> None:
        items = list(range(self.added, self.added + count))
        self.batches.add(items, self.now)
        self.line += [(item, self.now) for item in items]
        self.added += count

    @rule(count=st.integers(1, 7))
    def add(self, count: int) -> None:
        room = not self.waiting and len(self.pending()) + self.reserved() + count <= self.capacity
        assert self.batches.room(count) == room
        if room:
            self.put(count)

    @rule()
    def add_a_spare_one(self) -> None:
        if self.batches.spare:
            assert self.batches.room(1)
            self.batches.spare -= 1
            self.batches.filling.append(self.added)
            short = len(self.line) % self.size
            assert 0 < short < self.size - 1
            self.line.append((self.added, self.now))
            self.added += 1

    @rule(count=st.integers(1, 4))
    def wait(self, count: int) -> None:
        if not self.batches.room(count):
            self.producers += 1
            name = f"producer {self.producers}"
            self.waiting.append((name, count))
            self.batches.wait(name, count)
            self.admit()

    @rule()
    def a_waiting_producer_is_cancelled(self) -> None:
        if self.waiting:
            name, _ = self.waiting.pop()
            assert not self.batches.leave(name)
            self.admit()

    @rule()
    def an_admitted_producer_is_cancelled(self) -> None:
        if self.admitted:
            name, _ = self.admitted.popitem()
            assert self.batches.leave(name)
            self.admit()

    @rule()
    def an_admitted_producer_adds(self) -> None:
        if self.admitted:
            name, count = self.admitted.popitem()
            assert self.batches.leave(name)
            self.put(count)

    @rule()
    def those_who_wait_are_turned_away(self) -> None:
        assert self.batches.turn_away() == [name for name, _ in self.waiting]
        for name, _ in self.waiting:
            assert not self.batches.leave(name)
        self.waiting.clear()

    def admit(self) -> None:
        admitted = list(self.batches.admit())
        expected = []
        while self.waiting:
            name, count = self.waiting[0]
            if len(self.pending()) + self.reserved() + count > self.capacity:
                break
            expected.append(name)
            self.admitted[name] = count
            del self.waiting[0]
        assert admitted == expected

    @rule(seconds=st.floats(0.0, 12.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def deadline(self) -> float:
        if self.cut:
            return self.due
        if len(self.line) >= self.size:
            return -inf
        return self.line[0][1] + INTERVAL if self.line else inf

    @rule(force=st.booleans())
    def cut_one(self, force: bool) -> None:
        batches = self.batches
        short_is_due = force or (
            len(self.line) % self.size > 0
            and self.line[-(len(self.line) % self.size)][1] + INTERVAL <= self.now
        )
        end = batches.end(short=True) if force else batches.end_of_due(self.now)
        batch = batches.take(end, self.now)
        if self.cut:
            assert batch is (self.cut[0] if self.due <= self.now else None)
        elif len(self.line) >= self.size or (self.line and short_is_due):
            assert batch is not None
            assert batch.items == [item for item, _ in self.line[: self.size]]
            assert batch.start == batch.items[0]  # items are numbered by their positions
            self.cut.append(batch)
            self.due = -inf
            self.deliveries = 0
            del self.line[: self.size]
        else:
            assert batch is None

    @precondition(lambda self: self.cut)
    @rule()
    def it_is_flushed(self) -> None:
        batch = self.cut.pop(0)
        self.settled += batch.items
        self.batches.remove(batch)
        self.admit()

    @precondition(lambda self: self.cut and self.deliveries < 3)
    @rule()
    def it_fails(self) -> None:
        batch = self.cut[0]
        error = OSError()
        self.batches.failed(batch, error, self.now)
        self.deliveries += 1
        assert batch.error is (error if self.deliveries == 3 else None)
        if batch.error is None:
            self.due = self.now + self.backoff.delay(self.deliveries)

    @precondition(lambda self: self.cut and self.deliveries == 3)
    @rule()
    def nobody_takes_it(self) -> None:
        self.batches.not_given_up(self.cut[0], self.now)
        self.due = self.now + self.backoff.ceiling

    @invariant()
    def nothing_is_lost_doubled_or_out_of_order(self) -> None:
        if not hasattr(self, "batches"):
            return
        assert list(self.batches) == self.pending()
        assert len(self.batches) == len(self.pending())
        assert self.settled + self.pending() == list(range(self.added))
        assert self.batches.start == len(self.settled)

    @invariant()
    def it_is_never_over_its_capacity(self) -> None:
        if hasattr(self, "batches"):
            assert len(self.batches) + self.reserved() <= self.capacity

    @invariant()
    def it_says_when_something_is_due(self) -> None:
        if hasattr(self, "batches"):
            assert self.batches.next_deadline() == self.deadline()

    def teardown(self) -> None:
        if hasattr(self, "batches"):
            batches = self.batches.take_all()
            assert [item for batch in batches for item in batch.items] == self.pending()
            assert all(len(batch.items) <= self.size for batch in batches)
            new = batches[len(self.cut) :]
            assert all(len(batch.items) == self.size for batch in new[:-1])


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
