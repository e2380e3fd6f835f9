"""Texts of what users give can always be made, and are short."""

from typing import NoReturn

import pytest

from leaseq._core.texts import failure_text, shown


class Raises:
    """A value of which no text can be made."""

    def __init__(self, error: object) -> None:
        self.error = error

    def __repr__(self) -> NoReturn:
        raise self.error  # type: ignore[misc]  # or no error at all: that is one too


class NoTextError(Exception):
    def __init__(self, error: object) -> None:
        self.error = error

    def __str__(self) -> str:
        if isinstance(self.error, BaseException):
            raise self.error
        return self.error  # type: ignore[return-value]


ANYTHING = [ValueError("x"), RecursionError(), StopIteration(), GeneratorExit(), BaseException()]


def test_a_value_is_shown_by_its_repr_which_is_cut() -> None:
    assert shown("a") == "'a'"
    assert len(shown("a" * 10_000)) < 200


@pytest.mark.parametrize("error", ANYTHING, ids=repr)
def test_a_value_whose_repr_raises_is_shown_by_its_type(error: BaseException) -> None:
    assert shown(Raises(error)) == f"<Raises, whose repr raises {type(error).__name__}>"


def test_a_number_with_too_many_digits_is_shown_by_its_type() -> None:
    assert shown(10**10_000) == "<int, whose repr raises ValueError>"


@pytest.mark.parametrize("error", ANYTHING, ids=repr)
def test_an_error_whose_text_raises_is_named_by_its_type(error: BaseException) -> None:
    text = failure_text(NoTextError(error))
    assert text == f"NoTextError: <NoTextError, whose str raises {type(error).__name__}>"


def test_an_error_whose_text_is_no_string_is_named_by_its_type() -> None:
    assert failure_text(NoTextError(7)).startswith("NoTextError: <NoTextError, whose str raises")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_goes_through(error: type[BaseException]) -> None:
    with pytest.raises(error):
        shown(Raises(error()))
    with pytest.raises(error):
        failure_text(NoTextError(error()))


def test_an_error_is_one_line_that_can_be_written_anywhere() -> None:
    assert failure_text(ValueError("one\n  two\r\nthree\u2028four")) == (
        "ValueError: one two three four"
    )
    assert failure_text(ValueError("\ud800")).encode() == b"ValueError: \\ud800"
    assert failure_text(ValueError()) == "ValueError"


def test_the_text_of_an_error_is_cut() -> None:
    assert len(failure_text(ValueError("a" * 10_000_000))) < 1100


def test_a_group_names_its_leaves() -> None:
    inner = BaseExceptionGroup("inner", [KeyError("b"), NoTextError(ValueError())])
    text = failure_text(BaseExceptionGroup("outer", [ValueError("a"), inner, SystemExit(1)]))
    assert text == (
        "BaseExceptionGroup: outer (3 sub-exceptions): ValueError: a; KeyError: 'b'; "
        "NoTextError: <NoTextError, whose str raises ValueError>; SystemExit: 1"
    )


def test_a_leaf_of_a_group_leaves_room_for_the_others() -> None:
    errors = [ValueError("a" * 5000), KeyError("b")]
    text = failure_text(ExceptionGroup("g" * 5000, errors))
    assert text.endswith("...; KeyError: 'b'")


def test_a_group_of_many_names_some() -> None:
    text = failure_text(ExceptionGroup("many", [ValueError(n) for n in range(10_000)]))
    assert text.endswith("ValueError: 9; ...")
    assert "ValueError: 10" not in text


def test_a_group_may_be_deep() -> None:
    error: Exception = ValueError("leaf")
    for _ in range(10_000):
        error = ExceptionGroup("g", [error])
    assert failure_text(error).endswith(": ValueError: leaf")
