"""The log tells, and disturbs nothing."""

import io
import logging
import sys
from collections.abc import Iterator
from logging import DEBUG, WARNING

import pytest

from leaseq._core.log import Burst, log

ERRORS = [LookupError("no request"), GeneratorExit(), BaseException("odd")]


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


class Raising(logging.Handler):
    """A handler that raises, and has a filter that does."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error

    def refuse(self, record: logging.LogRecord) -> bool:
        raise self.error


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("leaseq")
    handlers, filters = logger.handlers[:], logger.filters[:]
    yield logger
    logger.handlers[:], logger.filters[:] = handlers, filters


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("place", ["handler", "filter", "filter of a handler"])
def test_a_handler_or_filter_that_raises_is_told_on_standard_error(
    logger: logging.Logger, error: BaseException, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Raising(error)
    if place == "handler":
        logger.addHandler(broken)
    elif place == "filter":
        logger.addFilter(broken.refuse)
    else:
        handler = logging.StreamHandler(io.StringIO())
        handler.addFilter(broken.refuse)
        logger.addHandler(handler)
    log(WARNING, "it %s", "happened")
    told = capsys.readouterr().err
    assert "Logging error" in told
    assert repr(error).split("(")[0] in told


def test_nothing_is_told_where_logging_is_told_not_to(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.addHandler(Raising(LookupError()))
    log(WARNING, "it happened")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("closed", [True, False])
def test_there_may_be_no_standard_error(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, *, closed: bool
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise ValueError("it is closed")

    monkeypatch.setattr(sys, "stderr", Closed() if closed else None)
    logger.addHandler(Raising(LookupError()))
    log(WARNING, "it happened")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_goes_through(
    logger: logging.Logger, error: type[BaseException]
) -> None:
    logger.addHandler(Raising(error()))
    with pytest.raises(error):
        log(WARNING, "it happened")


def test_what_cannot_be_written_does_not_cost_the_record(caplog: pytest.LogCaptureFixture) -> None:
    log(WARNING, "%r, %s, %d, %.1f, %r, %r", "a", Unprintable(), 1, 0.5, b"b", "c" * 5000)
    (record,) = caplog.records
    told = "<Unprintable, whose repr raises ValueError>"
    assert record.getMessage().startswith(f"'a', {told}, 1, 0.5, b'b', 'ccc")
    assert len(record.getMessage()) < 400


def test_a_record_names_the_place_that_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    log(WARNING, "here")
    assert caplog.records[0].funcName == "test_a_record_names_the_place_that_it_comes_from"


def test_an_error_is_written_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("bad")
    except ValueError as error:
        log(WARNING, "failed", error=error)
    assert "ValueError: bad" in caplog.text
    assert "Traceback" in caplog.text


def test_values_are_not_asked_for_their_repr_where_nobody_listens(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    class Asked:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with caplog.at_level(WARNING, "leaseq"):
        log(DEBUG, "%r", Asked())


def test_a_logger_of_the_users_may_be_an_adapter(caplog: pytest.LogCaptureFixture) -> None:
    adapter = logging.LoggerAdapter(logging.getLogger("mine"), {"shop": 7})
    log(WARNING, "it happened", logger=adapter)
    assert caplog.records[0].name == "mine"


def test_a_string_that_cannot_be_encoded_is_written_escaped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log(WARNING, "%s, and %r", "\ud800", "\udfff")
    caplog.messages[0].encode()
    assert caplog.messages == ["\\ud800, and '\\\\udfff'"]


# Bursts


def test_a_few_of_a_kind_are_written_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    burst = Burst()
    burst.expiry("work", "a", 1)
    burst.death("work", "b", None, "max_deliveries", "dead")
    burst.expiry("", "c", 3)
    assert caplog.messages == []
    burst.write()
    assert caplog.messages == [
        "queue 'work': the lease on 'a', token 1, expired",
        "queue 'work': 'b', not leased, is a dead letter ('max_deliveries')",
        "an unnamed queue: the lease on 'c', token 3, expired",
    ]
    burst.write()
    assert len(caplog.messages) == 3


def test_many_of_a_kind_are_one_record(caplog: pytest.LogCaptureFixture) -> None:
    burst = Burst()
    for token in range(1, 50_001):
        burst.expiry("work", f"k{token}", token)
    burst.expiry("other", "x", 1)
    burst.write()
    assert caplog.messages == [
        "queue 'work': the lease on 'k1', token 1, expired, and 49999 more like it",
        "queue 'other': the lease on 'x', token 1, expired",
    ]


def test_the_records_of_steps_that_belong_together_are_written_at_their_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    burst = Burst()
    with pytest.raises(ZeroDivisionError), burst.held():
        for token in range(20):
            burst.death("work", "a", token, "max_deliveries", "dead")
            burst.write()
        assert caplog.messages == []
        raise ZeroDivisionError
    (message,) = caplog.messages
    assert message.endswith("and 19 more like it")


def test_what_is_held_twice_is_written_at_the_first_end(caplog: pytest.LogCaptureFixture) -> None:
    burst = Burst()
    with burst.held():
        with burst.held():
            burst.expiry("work", "a", 1)
        assert len(caplog.messages) == 1
        burst.expiry("work", "b", 2)
        burst.write()
        assert len(caplog.messages) == 1
    assert len(caplog.messages) == 2


# Texts from elsewhere

HOSTILE = "x\x1b[31m\nERROR forged\r\u202e\x00" + "y" * 5000


class Hostile:
    def __repr__(self) -> str:
        return HOSTILE


@pytest.fixture
def written(logger: logging.Logger) -> io.StringIO:
    """What a handler as `logging.basicConfig` makes it writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return stream


def check_harmless(written: io.StringIO, first: str = "WARNING ") -> None:
    text = written.getvalue()
    assert "forged" in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert [line for line in text.splitlines() if not line.startswith((first, "    "))] == []


@pytest.mark.parametrize("form", ["%s", "%r"])
@pytest.mark.parametrize("value", [HOSTILE, Hostile(), ValueError(HOSTILE), {HOSTILE: Hostile()}])
def test_a_text_from_elsewhere_is_one_short_printable_line(
    written: io.StringIO, form: str, value: object
) -> None:
    log(WARNING, f"it was {form}", value)
    check_harmless(written)
    assert len(written.getvalue()) < 500


@pytest.mark.parametrize(
    "error",
    [
        ValueError(HOSTILE),
        ExceptionGroup(HOSTILE, [KeyError(HOSTILE)]),
        type("Odd\x1b", (Exception,), {})(HOSTILE),
    ],
    ids=["one", "group", "type"],
)
def test_the_traceback_of_an_error_does_not_look_like_other_records(
    written: io.StringIO, error: Exception
) -> None:
    error.add_note(HOSTILE)
    try:
        raise error from RuntimeError(HOSTILE)
    except Exception as raised:
        log(WARNING, "it failed", error=raised)
    check_harmless(written)
    assert "Traceback (most recent call last):\n    " in written.getvalue()


def test_a_record_with_a_traceback_is_of_the_place_that_logs(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = logging.LoggerAdapter(logger, {"shop": "north"})
    log(WARNING, "it failed", error=KeyError("a"), logger=adapter)
    log(WARNING, "it went", logger=adapter)
    for record in caplog.records:
        assert (record.filename, record.shop) == ("test_log.py", "north")  # type: ignore[attr-defined]
        assert record.funcName == "test_a_record_with_a_traceback_is_of_the_place_that_logs"


def test_the_reason_of_a_death_is_quoted(written: io.StringIO) -> None:
    burst = Burst()
    burst.death("work", HOSTILE, 1, HOSTILE, "dead")
    burst.write()
    check_harmless(written)
    assert "is a dead letter ('x\\x1b[31m\\nERROR forged" in written.getvalue()
