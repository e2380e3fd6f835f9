"""The docstring of each public call of the contract says what a caller has to know."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from leaseq import Broker, Lease, LeaseBatch, LeasedQueue, Transaction

CONTRACT = [Broker, Lease, LeaseBatch, LeasedQueue, Transaction]


def calls() -> Iterator[Any]:
    for cls in CONTRACT:
        for name, member in vars(cls).items():
            if inspect.isfunction(member) and not name.startswith("_"):
                yield pytest.param(member, id=f"{cls.__name__}.{name}")


CALLS = [*calls()]
COROUTINES = [each for each in CALLS if inspect.iscoroutinefunction(each.values[0])]


def said_of(call: Callable[..., object]) -> str:
    return inspect.getdoc(call) or ""


@pytest.mark.parametrize("call", CALLS)
def test_the_docstring_tells_the_cost(call: Callable[..., object]) -> None:
    text = said_of(call)
    assert "O(" in said_of(named_for_its_cost(text) or call)


def named_for_its_cost(text: str) -> Callable[..., object] | None:
    """The call whose cost is this one's, as a docstring says."""
    found = re.search(r"cost\s+(?:is|are)\s+(?:that|those)\s+of\s+`(?:(\w+)\.)?(\w+)`", text)
    if found is None:
        return None
    classes = [cls for cls in CONTRACT if found[1] in (None, cls.__name__)]
    return next(vars(cls)[found[2]] for cls in classes if found[2] in vars(cls))


@pytest.mark.parametrize("call", COROUTINES)
def test_the_docstring_tells_what_a_cancellation_does(call: Callable[..., object]) -> None:
    assert "cancelled" in said_of(call).lower()


@pytest.mark.parametrize("call", CALLS)
def test_the_docstring_tells_of_each_argument(call: Callable[..., object]) -> None:
    text = said_of(call)
    if "Arguments, errors and cost are those of" in text:
        return
    told = text.partition("Args:\n")[2]
    missing = [name for name in [*inspect.signature(call).parameters][1:] if f"{name}:" not in told]
    assert missing == []


def test_the_calls_of_the_contract_are_found() -> None:
    assert len(CALLS) > len(COROUTINES) > 40
