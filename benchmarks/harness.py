"""How a figure comes about: rounds, medians, ratios, targets.

A *subject* is an async function that measures one queue once. A section hands its subjects to
`Bench.measure`, which runs them in turn (A B C, A B C, ...), each time in an event loop of its own,
and makes rows from the costs that come back. The machine may be busy with other things, in waves
that last longer than a round: so subjects are compared within a round, and a ratio is the median
over the rounds.
"""

import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias

import anyio

Backend: TypeAlias = Literal["asyncio", "trio"]

#: Given a count of items, returns what it measured: per item, or as the section says.
Subject: TypeAlias = Callable[[int], Awaitable[float]]

#: Measures its subjects and yields what the table shows.
Section: TypeAlias = "Callable[[Bench], Iterator[Row]]"


class Stopwatch:
    """Measures the processor time of a ``with`` block, that of the garbage collector included.

    Processor time, because a busy machine takes the processor away at moments that say nothing
    about a queue. A block that waits for anything but the processor is not for this watch. What
    was there before the block is collected beforehand.
    """

    seconds: float

    def __enter__(self) -> Self:
        gc.collect()
        self._start = time.process_time()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds = time.process_time() - self._start


@dataclass(frozen=True)
class Target:
    """The bound that a figure must keep."""

    bound: Literal[">=", "<="]
    limit: float

    def met(self, figure: float) -> bool:
        """Tell whether the figure keeps the bound."""
        return figure >= self.limit if self.bound == ">=" else figure <= self.limit

    def __str__(self) -> str:
        return f"{self.bound} {self.limit:g}"


def at_least(limit: float) -> Target:
    """A target that larger figures meet."""
    return Target(">=", limit)


def at_most(limit: float) -> Target:
    """A target that smaller figures meet."""
    return Target("<=", limit)


class Unit(NamedTuple):
    """What an amount is shown in."""

    name: str
    in_one: float  # how many of it make what subjects return: a second, a byte, or the whole


MILLISECONDS = Unit("ms", 1e3)
MICROSECONDS = Unit("us", 1e6)
PERCENT = Unit("%", 100)
BYTES = Unit("B", 1)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        figure: What was measured, in `unit`; a ratio where the unit is ``"x"``.
        unit: The figure's unit, and the target's.
        what: What the figure says.
        target: The bound that the figure must keep; None if it is for information.
        cost: The cost behind the ratio.
        beside: The cost of what it is compared with.
    """

    figure: float
    unit: str
    what: str
    target: Target | None
    cost: str = ""
    beside: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        return None if self.target is None else self.target.met(self.figure)


LINE = "{:>11}  {:>7}  {:3}  {:42}{:>11}{:>12}"


def show(row: Row) -> str:
    """The row as a line of the table."""
    met = {True: "yes", False: "NO", None: ""}[row.met]
    figure = f"{row.figure:.2f} {row.unit}".rstrip()
    return LINE.format(figure, str(row.target or ""), met, row.what, row.cost, row.beside).rstrip()


class Costs:
    """What each subject cost in each round."""

    def __init__(self, rounds: list[dict[Subject, float]]) -> None:
        self._rounds = rounds

    def of(self, subject: Subject) -> float:
        """The subject's median cost."""
        return median(costs[subject] for costs in self._rounds)

    def ratio(self, subject: Subject, to: Subject) -> float:
        """The median, over the rounds, of one subject's cost divided by another's."""
        return median(costs[subject] / costs[to] for costs in self._rounds)

    def speed(
        self, what: str, subject: Subject, than: Subject, target: Target | None = None
    ) -> Row:
        """A row that says how many times as fast as `than` the subject is."""
        return self._compared(self.ratio(than, to=subject), what, target, subject, than)

    def cost(self, what: str, subject: Subject, to: Subject, target: Target | None = None) -> Row:
        """A row that says how many times what `to` costs the subject costs."""
        return self._compared(self.ratio(subject, to=to), what, target, subject, to)

    def _compared(
        self, ratio: float, what: str, target: Target | None, subject: Subject, beside: Subject
    ) -> Row:
        costs = (f"{self.of(each) * 1e6:.2f} us" for each in (subject, beside))
        return Row(ratio, "x", what, target, *costs)

    def amount(self, unit: Unit, what: str, subject: Subject, target: Target | None = None) -> Row:
        """A row that says what the subject costs, not how it compares."""
        return Row(self.of(subject) * unit.in_one, unit.name, what, target)


@dataclass(frozen=True)
class Bench:
    """One run of the benchmarks on one backend.

    Attributes:
        backend: The event loop that the subjects run on.
        quick: Whether fewer items and rounds will do.
    """

    backend: Backend
    quick: bool = False

    @property
    def on_asyncio(self) -> bool:
        """Whether the queues that know only asyncio can take part."""
        return self.backend == "asyncio"

    def items(self, full: int) -> int:
        """How many items to take where a full run takes so many."""
        return full // 8 if self.quick else full

    def measure(self, subjects: Iterable[Subject], *, items: int, rounds: int) -> Costs:
        """Run the subjects in turn, round by round.

        Args:
            subjects: What to measure.
            items: How many items each subject is given.
            rounds: How often each subject is run, in a full run.
        """
        subjects = tuple(subjects)
        return Costs(
            [
                {each: anyio.run(each, items, backend=self.backend) for each in subjects}
                for _ in range(max(1, rounds // 3) if self.quick else rounds)
            ]
        )
