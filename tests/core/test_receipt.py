"""Receipts: a lease as a string."""

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaseq import InvalidLeaseError, MessageId, PutOutcome
from leaseq._core.receipt import read_receipt, write_receipt


@given(st.text(), st.text() | st.integers() | st.binary(), st.integers(min_value=0))
def test_what_is_written_is_read(queue: str, key: str | int | bytes, token: int) -> None:
    assert read_receipt(write_receipt(queue, key, token)) == (queue, key, token)


@pytest.mark.parametrize("key", [None, True, 1.5, ("a", 1), frozenset()])
def test_a_key_of_another_type_cannot_be_written(key: object) -> None:
    with pytest.raises(TypeError, match="a key that is str, int or bytes, not"):
        write_receipt("orders", key, 1)


@pytest.mark.parametrize(
    "receipt",
    [
        None,
        "not JSON",
        '"abc"',
        json.dumps(["orders", "a"]),
        json.dumps(["orders", "a", 1, 2]),
        json.dumps([1, "a", 1]),
        json.dumps(["orders", 1.5, 1]),
        json.dumps(["orders", True, 1]),
        json.dumps(["orders", "a", "1"]),
        json.dumps(["orders", "a", True]),
        json.dumps(["orders", {}, 1]),
        json.dumps(["orders", {"bytes": "?"}, 1]),
        json.dumps(["orders", {"bytes": 1}, 1]),
    ],
)
def test_what_was_not_written_is_no_receipt(receipt: str) -> None:
    with pytest.raises(InvalidLeaseError, match="not a receipt"):
        read_receipt(receipt)


def test_a_message_id_survives_being_copied_and_pickled() -> None:
    message_id = MessageId("a", PutOutcome.DUPLICATE)
    for again in (copy.deepcopy(message_id), pickle.loads(pickle.dumps(message_id))):
        assert (again, again.outcome) == ("a", PutOutcome.DUPLICATE)
