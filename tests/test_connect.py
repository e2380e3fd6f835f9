"""From a URL to a broker."""

import sys

import pytest

import leaseq
from leaseq import LeaseqError, MemoryBroker, connect


@pytest.mark.parametrize("url", ["memory://", "memory:", "MEMORY://", "memory:///"])
def test_memory_is_a_broker_in_this_process(url: str) -> None:
    assert isinstance(connect(url), MemoryBroker)


@pytest.mark.anyio
async def test_each_memory_is_another_one() -> None:
    async with connect("memory://") as one, connect("memory://") as another:
        await one.queue("orders")
        assert await another.list_queues() == []


@pytest.mark.parametrize(
    "url", ["memory://localhost", "memory:///a", "memory://?a=1", "memory://#a", "memory:a"]
)
def test_memory_has_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="takes no host, path or options"):
        connect(url)


@pytest.mark.parametrize("scheme", ["valkey", "valkeys", "redis", "rediss"])
def test_an_engine_that_is_not_there_is_named_with_its_extra(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = ("leaseq.valkey", "leaseq._valkey", "leaseq._remote")
    for module in [name for name in sys.modules if name.startswith(rooms)]:
        if module in rooms:  # the package's attribute comes back afterwards too
            monkeypatch.setattr(leaseq, module.partition(".")[2], sys.modules[module])
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(LeaseqError, match=rf"{scheme}://.*leaseq\[valkey\]") as caught:
        connect(f"{scheme}://ada:secret@localhost:6379/0")
    assert "secret" not in str(caught.value)


def test_a_python_without_sqlite3_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "leaseq.sqlite", None)
    with pytest.raises(LeaseqError, match="sqlite:// needs the sqlite3 of Python, which is not"):
        connect("sqlite:///q.db")


@pytest.mark.parametrize("scheme", ["valkey", "valkeys", "redis", "rediss"])
def test_an_engine_on_a_server_connects_when_it_is_entered(scheme: str) -> None:
    broker = connect(f"{scheme}://ada:secret@localhost:1/0")
    assert repr(broker) == (
        f"<ValkeyBroker valkey{'s' * (scheme in ('valkeys', 'rediss'))}://ada:***@localhost:1/0 "
        "open: 0 queues here>"
    )


@pytest.mark.parametrize(
    "url",
    [
        "valkey://ada:secret\u2100x@host/0",
        "valkey://ada:se]secret[@host,b/0",
        "valkey://ada:[secret@host/0",
        "valkey://ada:secret@[host/0",
    ],
)
def test_no_url_of_a_server_is_quoted(url: str) -> None:
    said = ""
    try:
        said = repr(connect(url))
    except ValueError as error:
        said = f"{error}"
    assert "secret" not in said
    assert "%3A" in said or "***" in said  # how to write what is special, or where it was


@pytest.mark.parametrize("url", ["", "amqp://ada:secret@localhost", "localhost:6379", "memory"])
def test_any_other_url_is_refused_with_the_choices(url: str) -> None:
    with pytest.raises(ValueError, match=r"memory://, sqlite://, .* rediss://") as caught:
        connect(url)
    assert "secret" not in str(caught.value)


def test_a_broker_tells_what_it_is() -> None:
    assert repr(connect("memory://")) == "<MemoryBroker open: 0 queues>"
