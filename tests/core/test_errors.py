"""Reasons of rejections, whatever their classes do, and errors of processes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from leaseq import Reject
from leaseq._core.errors import ProcessError, rejection
from leaseq._core.process_pool import _death


class OddReject(Reject):
    """A rejection whose reason raises an error, or is something else."""

    def __init__(self, reason: Any) -> None:
        super().__init__("unused")
        self._odd = reason

    @property
    def reason(self) -> Any:
        if isinstance(self._odd, BaseException):
            raise self._odd
        return self._odd

    @reason.setter
    def reason(self, _: str) -> None:
        pass


def test_a_rejection_has_its_reason_and_a_group_of_them_has_each_once() -> None:
    assert rejection(Reject("bad")) == "bad"
    group = ExceptionGroup("two", [Reject("bad"), ExceptionGroup("", [Reject("worse")])])
    assert rejection(ExceptionGroup("all", [group, Reject("bad")])) == "bad; worse"


def test_what_is_not_only_rejections_is_none() -> None:
    assert rejection(KeyError("bad")) is None
    assert rejection(ExceptionGroup("two", [Reject("bad"), KeyError("worse")])) is None


@pytest.mark.parametrize("reason", [7, None, KeyError("odd"), GeneratorExit()])
def test_a_rejection_whose_reason_is_no_text_has_that_of_the_error(reason: object) -> None:
    assert rejection(OddReject(reason)) == "OddReject: unused"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_interrupts_is_heard_all_the_same(error: type[BaseException]) -> None:
    with pytest.raises(error):
        rejection(OddReject(error()))


def test_an_error_of_a_process_is_pickled_with_its_name_and_traceback() -> None:
    error = ProcessError.made(["OddError", "ValueError"], "bad", "Traceback: there")
    again = pickle.loads(pickle.dumps(error))
    for each in (error, again):
        assert repr(each) == "OddError('bad')"
        assert each.kinds == ("OddError", "ValueError")
        assert str(each.__cause__) == "\nTraceback: there"
    assert ProcessError.made(["OddError"], "bad", "").__cause__ is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "its process has ended with the exit code 0"),
        (3, "its process has ended with the exit code 3"),
        (-15, "its process was ended by SIGTERM"),
        (-9, "its process was ended by SIGKILL, maybe for lack of memory"),
        (-200, "its process was ended by signal 200"),
    ],
)
def test_how_a_process_has_died_is_told(code: int, said: str) -> None:
    died = _death(code)
    assert (str(died), died.exit_code) == (said, code)
