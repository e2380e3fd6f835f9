from typing import Any

import pytest

from leaseq import BrokerQueueOptions, JsonCodec, Retry
from leaseq._core.queue_options import (
    check_broker_options,
    check_handle,
    check_same,
    codec_for,
    options_of_queue,
    queue_name,
)


@pytest.mark.parametrize("name", ["a", "9", "mail.dead", "a_b-c:d", "x" * 128])
def test_a_name_has_letters_digits_and_some_marks(name: str) -> None:
    queue_name(name)


@pytest.mark.parametrize("name", ["", ".a", "a b", "ä", "a\n", "a/b", "x" * 129])
def test_anything_else_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="invalid queue name "):
        queue_name(name)


def test_an_unknown_option_is_told_with_those_that_there_are() -> None:
    options: BrokerQueueOptions = {"size": 3}  # type: ignore[typeddict-unknown-key]
    with pytest.raises(TypeError, match=r"queue\(\) has no option 'size': it has .*max_size"):
        check_broker_options(options)


def test_what_is_left_out_is_as_it_is() -> None:
    check_same("mail", {"max_size": 3, "history": 2}, {"history": 2})


def test_what_a_queue_was_not_made_with_is_as_usual() -> None:
    check_same("mail", {}, {"retry": Retry(), "dead_letters": None})
    with pytest.raises(ValueError, match=r"queue 'mail' has history=0, .* with history=2"):
        check_same("mail", {}, {"history": 2})


def test_an_option_that_differs_is_told_with_both_values() -> None:
    with pytest.raises(ValueError, match=r"queue 'mail' has max_size=3, .* with max_size=4"):
        check_same("mail", {"max_size": 3}, {"max_size": 4})


# Of a handle


def test_what_concerns_a_handle_is_not_compared_with_what_the_queue_has() -> None:
    check_same("mail", {"max_size": 3}, {"max_size": 3, "type": int})


def test_a_handle_keeps_its_type() -> None:
    check_handle("mail", {"type": int, "max_size": 3}, {"type": int, "max_size": 4})
    with pytest.raises(ValueError, match=r"queue 'mail' has type=.*int.*, .* with type=.*str"):
        check_handle("mail", {"type": int}, {"type": str})


def test_a_queue_is_made_without_what_concerns_a_handle() -> None:
    options: BrokerQueueOptions = {"type": int, "codec": None, "history": 2}
    assert options_of_queue(options) == {"history": 2}


def test_a_queue_has_the_codec_that_it_is_given() -> None:
    codec = JsonCodec(int)
    assert codec_for({"codec": codec}) is codec


def test_a_queue_that_is_given_none_has_json_of_its_type() -> None:
    assert codec_for({"type": int, "codec": None}) == JsonCodec(int)
    assert codec_for({}) == JsonCodec()


def test_a_type_beside_a_codec_is_refused() -> None:
    check_broker_options({"type": Any, "codec": JsonCodec(int)})
    with pytest.raises(ValueError, match="leave type= out"):
        check_broker_options({"type": int, "codec": JsonCodec(int)})
