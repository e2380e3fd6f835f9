"""The URL of a file: what it may say, and why it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from leaseq import connect
from leaseq._connect import file_of
from leaseq.sqlite import SqliteBroker, SqliteUrl

# What is accepted


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///q.db", "q.db"),
        ("sqlite:///folder/q.db", "folder/q.db"),
        ("sqlite:///../q.db", "../q.db"),
        ("sqlite:////srv/queues/q.db", "/srv/queues/q.db"),
        ("SQLite:///q.db", "q.db"),
        ("sqlite:///Q.DB", "Q.DB"),
        ("sqlite:///my%20queues/50%25.db", "my queues/50%.db"),
        ("sqlite:///%3Fq%23.db", "?q#.db"),
        ("sqlite:///%C3%A9t%C3%A9.db", "été.db"),
        ("sqlite:///été.db", "été.db"),
        ("sqlite:///a+b.db", "a+b.db"),
        ("sqlite:///queues@home:1.db", "queues@home:1.db"),
        ("sqlite:///q.db?", "q.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert SqliteUrl.parse(url) == SqliteUrl(Path(path))
    assert isinstance(connect(url), SqliteBroker)
    assert file_of(url) == Path(path).absolute()


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("synchronous=normal", {"synchronous": "normal"}),
        ("synchronous=FULL", {"synchronous": "full"}),
        ("request_timeout=0.5", {"request_timeout": 0.5}),
        ("request_timeout=1e+3", {"request_timeout": 1000.0}),
        ("request_timeout=0.001", {"request_timeout": 0.001}),
        ("request_timeout=86400", {"request_timeout": 86_400.0}),
        ("adopt=true", {"adopt": True}),
        ("adopt=False", {"adopt": False}),
        ("adopt=true&synchronous=normal", {"adopt": True, "synchronous": "normal"}),
    ],
)
def test_a_url_has_options(query: str, options: dict[str, Any]) -> None:
    assert SqliteUrl.parse(f"sqlite:///q.db?{query}") == SqliteUrl(Path("q.db"), **options)


def test_what_no_option_says_is_safe() -> None:
    url = SqliteUrl.parse("sqlite:///q.db")
    assert (url.synchronous, url.request_timeout, url.adopt) == ("full", 5.0, False)


# What is refused


NO_FILE = "the URL names no file: it is sqlite:///folder/file.db, or sqlite:////absolute/"
NO_HOST = "a file has no host: its URL is sqlite:///folder/file.db, or sqlite:////absolute/"
NO_URL = "the URL of a file is sqlite:///folder/file.db, or sqlite:////absolute/"
SECONDS = "a number of seconds from 0.001 to 86400"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:", NO_URL),
        ("sqlite:q.db", NO_URL),
        ("sqlite:/srv/q.db", NO_URL),
        ("sqlite://", NO_HOST),
        ("sqlite://q.db", NO_HOST),
        ("sqlite://srv/q.db", NO_HOST),
        ("sqlite://localhost/srv/q.db", NO_HOST),
        ("sqlite://?adopt=true", NO_HOST),
        ("sqlite:///", NO_FILE),
        ("sqlite:///?adopt=true", NO_FILE),
        ("sqlite:///folder/", NO_FILE),
        ("sqlite:///folder%2F", NO_FILE),
        ("sqlite:////", NO_FILE),
        ("sqlite:///q%00.db", NO_FILE),
        ("sqlite:///:memory:", "memory:// is the engine in this process; sqlite:/// needs a file"),
        (
            "sqlite:///q.db?mode=ro",
            "unknown option 'mode' in the URL: there are synchronous, request_timeout, adopt",
        ),
        (
            "sqlite:///q.db?Adopt=true",
            "unknown option 'Adopt' in the URL (did you mean adopt?): there are",
        ),
        ("sqlite:///q.db?synchronus=full", "'synchronus' in the URL (did you mean synchronous?)"),
        *(
            (f"sqlite:///q.db?{name}={one}&{name}={two}", f"{name} is in the URL twice")
            for name, one, two in (
                ("synchronous", "full", "normal"),
                ("request_timeout", "1", "1"),
                ("adopt", "true", "false"),
            )
        ),
        ("sqlite:///q.db#x", "no #fragment: write # as %23, in 'sqlite:///q.db#x'"),
        ("sqlite:///q#1.db?adopt=true", "no #fragment"),
        ("sqlite:///q.db?adopt=true#", "no #fragment"),
        ("sqlite:///q.db?adopt=1", "adopt in the URL is true or false, not '1'"),
        (
            "sqlite:///q.db?synchronous=off",
            "synchronous in the URL is full or normal, not 'off'",
        ),
        ("sqlite:///q.db?synchronous=", "synchronous in the URL is full or normal, not ''"),
        ("sqlite:///q.db?adopt=yes", "adopt in the URL is true or false, not 'yes'"),
        ("sqlite:///q.db?adopt", "adopt in the URL is true or false, not ''"),
        *(
            (
                f"sqlite:///q.db?request_timeout={value}",
                f"request_timeout in the URL is not {SECONDS}",
            )
            for value in ("", "soon", "0", "-1", "0.0009", "86401", "inf", "nan", "5s", "1,5")
        ),
    ],
)
def test_a_url_that_is_refused_says_why(url: str, why: str) -> None:
    for read in (SqliteUrl.parse, connect, file_of):
        with pytest.raises(ValueError, match=re.escape(why)):
            read(url)


@pytest.mark.parametrize("url", ["valkey://localhost", "sqlite3:///q.db", "q.db", ""])
def test_a_url_of_something_else_is_refused_with_its_text(url: str) -> None:
    with pytest.raises(ValueError, match=NO_URL) as caught:
        SqliteUrl.parse(url)
    assert str(caught.value).endswith(f"not {url!r}")
    assert file_of(url) is None


@pytest.mark.parametrize("path", ["q.db", "/srv/my queues.sqlite3", "a/b.sqlite"])
def test_the_path_of_a_file_is_told_as_a_url(path: str) -> None:
    with pytest.raises(ValueError, match="starts with one of") as caught:
        connect(path)
    offered = str(caught.value).rpartition(" is ")[2]
    assert file_of(offered) == Path(path).absolute()
    with pytest.raises(ValueError, match="starts with one of") as caught:
        connect("ada:geheim@host.db")
    assert "geheim" not in str(caught.value)


def test_a_url_of_another_type_is_refused() -> None:
    url: Any = Path("q.db")
    with pytest.raises(TypeError, match=r"the URL of a file must be a string, not \w*Path"):
        SqliteUrl.parse(url)
    with pytest.raises(TypeError, match=r"the URL of a broker must be a string, not \w*Path"):
        connect(url)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"path": "q.db"}, TypeError, "path must be a Path, not 'q.db': SqliteUrl.parse reads"),
        ({"synchronous": "off"}, ValueError, 'must be "full" or "normal", not \'off\''),
        ({"synchronous": None}, ValueError, 'must be "full" or "normal", not None'),
        ({"request_timeout": 0}, ValueError, f"request_timeout must be {SECONDS}, not 0"),
        ({"request_timeout": 1e9}, ValueError, f"request_timeout must be {SECONDS}, not 1000000"),
        ({"request_timeout": float("nan")}, ValueError, f"request_timeout must be {SECONDS}"),
        ({"request_timeout": "5"}, TypeError, f"request_timeout must be {SECONDS}, not '5'"),
        ({"request_timeout": True}, TypeError, f"request_timeout must be {SECONDS}, not True"),
    ],
)
def test_parts_that_are_refused_say_why(
    options: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error) as caught:
        SqliteUrl(**{"path": Path("q.db"), **options})
    assert why in str(caught.value)


def test_a_broker_wants_a_url_that_was_read() -> None:
    url: Any = "sqlite:///q.db"
    with pytest.raises(TypeError, match=r"must be a SqliteUrl, not str: SqliteUrl\.parse reads"):
        SqliteBroker(url)


# As text


@pytest.mark.parametrize("url", ["sqlite:///q.db", "sqlite:///a/q.db", "sqlite:////srv/q.db"])
def test_the_text_of_a_url_is_that_of_its_file(url: str) -> None:
    assert str(SqliteUrl.parse(f"{url}?adopt=true")) == url
    assert repr(connect(url)) == f"<SqliteBroker {url} open: 0 queues here>"


@pytest.mark.parametrize("name", ["a?b.db", "a#b.db", "a%20b.db", "a b.db", "ä&=+.db"])
def test_the_text_of_a_url_can_be_read_again(name: str) -> None:
    assert SqliteUrl.parse(str(SqliteUrl(Path("/srv") / name))).path == Path("/srv") / name
