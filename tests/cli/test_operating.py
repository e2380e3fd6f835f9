"""The commands of an operator, on queues of this process that stand in for those of a server."""

import json
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from typer.testing import CliRunner, Result

from leaseq import LeasedKeyQueue, MemoryBroker, QueueClosedError, QueueInfo, Retry
from leaseq._cli import common, make_app
from leaseq._cli.common import CommandError, address_of, describe_error
from leaseq._cli.queries import find_rows
from leaseq._cli.streams import OutputError
from leaseq._cli.text import (
    LegibleCodec,
    as_json,
    format_duration,
    json_value,
    printable,
    read_key,
    read_value,
    write_key,
)
from leaseq._cli.watch import Snapshot, watch_queues
from leaseq._core.errors import LeaseqError, ServerUnavailableError, UnusableServerError
from leaseq.abc import Broker

URL = "valkey://ada:hunter2@example.org:6379/0?prefix=shop"

Fill = Callable[[Broker], Awaitable[object]]
Use = Callable[..., Broker]


class Filled(MemoryBroker):
    """What a server would have; not closed between two commands."""

    def __init__(self, fill: Fill | None) -> None:
        super().__init__()
        self._fill = fill

    async def __aenter__(self) -> Self:
        if self._fill is not None:
            await self._fill(self)
        return self

    async def queue(self, name: str, **options: Any) -> Any:
        if name in self._queues:  # as another process has made it: this handle is a new one
            options.pop("codec", None)
        return await super().queue(name, **options)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Says what the commands are connected to: ``use(fill)``, or a class of broker of its own."""

    def use(fill: Fill | None = None, kind: Callable[[Any], Broker] = Filled) -> None:
        monkeypatch.setattr(common, "connect", lambda url: kind(fill))

    return use  # type: ignore[return-value]


def invoke(*arguments: object, stdin: str | None = None, **environment: str) -> Result:
    settings = {"COLUMNS": "200", "LEASEQ_URL": URL} | environment
    return CliRunner().invoke(make_app(), [*map(str, arguments)], input=stdin, env=settings)


def said(*arguments: object, stdin: str | None = None) -> Any:
    """The document that a command prints with --json."""
    result = invoke(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


async def fill(broker: Broker) -> None:
    """Orders, of which one is leased and two are dead, and an empty queue."""
    orders, _ = await broker.create_queue_pair("orders", retry=Retry(max_deliveries=1))
    await broker.queue("emails")
    for number in range(4):
        tenant = ("acme", "globex")[number % 2]
        await orders.put(f"order-{number}", {"total": number}, tenant=tenant)
    for _ in range(2):
        lease = (await orders.get())[2]
        await orders._fail(lease, OSError("reset\nby \x1b[31mpeer"))
    await orders.get(consumer="worker-1")


# Keys, values and times


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("order-1", "order-1"),
        ("42", "42"),
        ("int:42", 42),
        ("int:-1", -1),
        ("bytes:00ff", b"\x00\xff"),
        ("str:int:42", "int:42"),
        ("str:", ""),
        ("url:x", "url:x"),
    ],
)
def test_a_key_is_read_as_it_is_meant(text: str, key: object) -> None:
    assert read_key(text) == key


@pytest.mark.parametrize("key", ["a", "", "int:42", "str:x", "bytes:", 42, -7, b"\x00", b""])
def test_a_key_is_written_as_it_is_read(key: object) -> None:
    assert read_key(write_key(key)) == key
    assert write_key(key)


def test_a_key_of_another_kind_is_shown() -> None:
    assert write_key(("a", 1)) == "('a', 1)"


@pytest.mark.parametrize(
    ("text", "message"),
    [("int:x", "not an int: .*write str:int:x"), ("bytes:x", "not hexadecimal: .* str:bytes:x")],
)
def test_a_key_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_key(text)


@pytest.mark.parametrize(
    "text", ["oops", "NaN", "[1,", b"\xff\xfe\xff", "[" * 100_000, "", "1e999"]
)
def test_a_value_that_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|1e999 is more than a float can hold"):
        read_value(text)


def test_a_body_that_is_not_json_stays_bytes() -> None:
    codec = LegibleCodec()
    assert codec.decode(b'{"a": 1}') == {"a": 1}
    assert codec.decode(b"\x93\x01") == b"\x93\x01"
    assert json_value(b"\x93\x01") == {"bytes": "kwE="}


def test_what_json_cannot_say_becomes_text() -> None:
    assert as_json({"value": {1j}}) == '{"value": "{1j}"}'


def test_a_text_does_nothing_to_the_terminal() -> None:
    assert printable("é\x1b[2J\n\ud800") == "é\\x1b[2J\\n\\ud800"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (59, "59 s"),
        (600, "10 min"),
        (10_000, "3 h"),
        (400_000, "5 d"),
    ],
)
def test_a_time_is_read_at_a_glance(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_place_says_nothing_of_who_goes_there() -> None:
    assert address_of(URL) == "valkey://example.org:6379/0"


# Looking


def test_queues_are_listed_with_what_is_in_them(use: Use) -> None:
    use(fill)
    result = invoke("queues")
    assert result.exit_code == 0, result.output
    (orders,) = [line for line in result.output.splitlines() if line.startswith("│ orders ")]
    assert [cell.strip() for cell in orders.split("│")[1:6]] == ["orders", "1", "0", "1", "2"]
    (letters,) = [line for line in result.output.splitlines() if "orders.dead" in line]
    assert letters.rstrip(" │").endswith("orders")


def test_queues_are_listed_for_scripts(use: Use) -> None:
    use(fill)
    orders, letters, emails = said("queues")
    assert (orders["name"], orders["ready"], orders["leased"], orders["dead"]) == (
        "orders",
        1,
        1,
        2,
    )
    assert letters["dead_letters_of"] == ["orders"]
    assert emails["oldest_ready_age"] is None


def test_groups_are_shown_where_there_are_some(use: Use) -> None:
    async def fill_groups(broker: Broker) -> None:
        await broker.create_queue_pair("orders", group="shop")
        await broker.queue("emails")

    use(fill_groups)
    assert [each["group"] for each in said("queues")] == ["shop", "shop", ""]
    assert said("info", "orders")["group"] == "shop"
    header, *rows = invoke("queues").output.splitlines()[1:]
    assert "group" in header
    assert [row.split("│")[-2].strip() for row in rows[1:-1]] == ["shop", "shop", ""]
    assert "│ group" in invoke("info", "orders").output
    assert "│ group" not in invoke("info", "emails").output
    use(fill)
    assert "group" not in invoke("queues").output


def test_a_row_is_a_line_where_there_is_no_terminal(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)

    async def one_with_a_long_name(broker: Broker) -> None:
        await broker.queue("q" * 128)

    use(one_with_a_long_name)
    result = CliRunner().invoke(make_app(), ["queues", "--url", URL])
    assert "q" * 128 in result.output


def test_that_there_are_no_queues_is_no_failure(use: Use) -> None:
    use()
    assert invoke("queues").output == "there are no queues\n"
    assert said("queues") == []


def test_one_queue_is_told_of_at_length(use: Use) -> None:
    use(fill)
    output = invoke("info", "orders").output
    assert "4 put, 3 delivered, 2 released, 2 dead" in output
    for text in ("acme", "globex", "order-2", "worker-1", "never"):
        assert text in output


def test_one_queue_is_told_of_for_scripts(use: Use) -> None:
    use(fill)
    info = said("info", "orders")
    assert info["statistics"]["put"] == 4
    assert "getters" not in info["statistics"]
    acme = {"tenant": "acme", "ready": 0, "leased": 1, "paused": False}
    assert acme in info["statistics"]["tenants"]
    (lease,) = info["leases"]
    assert (lease["key"], lease["consumer"], lease["left"]) == ("order-2", "worker-1", None)


def test_long_lists_are_cut_and_say_so(use: Use) -> None:
    async def many(broker: Broker) -> None:
        queue = await broker.queue("work")
        for number in range(5):
            await queue.put(number, None, tenant=str(number))
            await queue.get()

    use(many)
    assert invoke("info", "work", "--limit", 2).output.count("and 3 more") == 2
    assert len(said("info", "work")["leases"]) == 5
    assert invoke("info", "work", "--limit", 0).exit_code == 2
    assert [each["key"] for each in said("info", "work", "--limit", 2)["leases"]] == [
        "int:0",
        "int:1",
    ]


def test_a_lease_past_its_deadline_is_overdue(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    inflight = LeasedKeyQueue.inflight

    async def late(queue: Any, **options: Any) -> Any:
        return [replace(each, deadline=0.0) for each in await inflight(queue, **options)]

    monkeypatch.setattr(LeasedKeyQueue, "inflight", late)
    use(fill)
    assert "overdue" in invoke("info", "orders").output
    assert said("info", "orders")["leases"][0]["left"] == 0


def test_a_value_is_peeked_at(use: Use) -> None:
    use(fill)
    assert json.loads(invoke("peek", "orders", "order-3").output) == {"total": 3}
    assert said("peek", "orders", "order-3") == {
        "queue": "orders",
        "key": "order-3",
        "value": {"total": 3},
    }


def test_nothing_is_another_value_than_none_at_all(use: Use) -> None:
    async def nothing(broker: Broker) -> None:
        queue = await broker.queue("work")
        await queue.put("none", None)
        await queue.put("bytes", b"\x93\x01")

    use(nothing)
    assert invoke("peek", "work", "none").output == "null\n"
    assert invoke("peek", "work", "bytes").output == "b'\\x93\\x01'\n"
    assert said("peek", "work", "bytes")["bytes"] == "kwE="
    result = invoke("peek", "work", "absent")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "leaseq: there is no key absent in queue 'work'\n"
    assert "there is no key int:42 in queue" in invoke("peek", "work", "int:42").stderr


def test_letters_are_shown_as_what_they_are_and_do_nothing_to_a_terminal(use: Use) -> None:
    async def some(broker: Broker) -> None:
        await (await broker.queue("work")).put("a", {"text": "später \x1b[31m \u202e"})

    use(some)
    shown = invoke("peek", "work", "a").output
    assert "später" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_an_empty_key_is_asked_about(use: Use) -> None:
    use(fill)
    result = invoke("put", "orders", "", "1")
    assert result.exit_code == 2
    assert "for the empty string, write str:" in result.output
    assert invoke("put", "orders", "str:", "1", "--tenant", "acme").output == "added\n"


@pytest.mark.parametrize("delay", ["inf", "nan"])
def test_a_delay_that_never_ends_is_refused(use: Use, delay: str) -> None:
    use(fill)
    result = invoke("put", "orders", "order-9", "1", "--tenant", "acme", "--delay", delay)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Invalid value" in result.stderr


def test_an_item_is_not_put_among_dead_letters(use: Use) -> None:
    use(fill)
    result = invoke("put", "orders.dead", "a", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has the dead letters of 'orders': it does not take items" in result.stderr


def test_the_version_is_told() -> None:
    assert invoke("--version").output == f"leaseq {version('leaseq')}\n"


def test_dead_letters_are_shown_the_latest_first(use: Use) -> None:
    use(fill)
    output = invoke("dead", "orders").output
    assert "max_deliveries" in output
    assert "OSError: reset by \\x1b[31mpeer" in output
    assert output.index("order-1") < output.index("order-0")
    cut = invoke("dead", "orders", "--limit", 1).output
    assert "order-0" not in cut
    assert "and 1 more" in cut


def test_dead_letters_of_tasks_are_told_by_their_functions(use: Use) -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py"\nValueError: total, its last: 3'

    async def tasks(broker: Broker) -> None:
        queue = await broker.queue("tasks", dead_letters="tasks.dead")
        for reason in (
            f"failed at delivery 4, its last: ValueError: total, its last: 3\n{trace}",
            "no such order",
        ):
            await queue.put("task-1", {"made_at": 1.0, "name": "pack_order"}, tenant="")
            await queue.reject((await queue.get())[2], reason)

    use(tasks)
    output = invoke("dead", "tasks").output
    assert "pack_order" in output
    assert "failed at delivery 4, its last │ ValueError: total, its last: 3 " in output
    assert "no such order " in output
    assert "Traceback" not in output
    reasons = [each["reason"] for each in said("dead", "tasks")["letters"]]
    assert any(trace in reason for reason in reasons)


def test_a_tenant_without_a_name_is_another_than_none(use: Use) -> None:
    async def two(broker: Broker) -> None:
        queue = await broker.queue("orders")
        for key, tenant in (("a", None), ("b", ""), ("c", "-")):
            await queue.put(key, 1, tenant=tenant)
            await queue.get(consumer=tenant)

    use(two)
    lines = [line.split() for line in invoke("info", "orders").output.splitlines()]
    assert {line[1] for line in lines if len(line) == 7} >= {"-", "''", "'-'"}


def test_dead_letters_are_shown_for_scripts(use: Use) -> None:
    use(fill)
    found = said("dead", "orders", "--limit", 1)
    assert (found["queue"], found["total"]) == ("orders", 2)
    (letter,) = found["letters"]
    assert letter["error"] == "OSError: reset by \\x1b[31mpeer"
    assert (letter["key"], letter["value"], letter["tenant"]) == ("order-1", {"total": 1}, "globex")


def test_a_queue_of_dead_letters_shows_those_of_all(use: Use) -> None:
    async def two(broker: Broker) -> None:
        for name in ("one", "two"):
            queue = await broker.queue(name, dead_letters="morgue")
            await queue.put("key", name)
            await queue.reject((await queue.get())[2], "bad")

    use(two)
    output = invoke("dead", "morgue").output
    assert "│ one " in output
    assert "│ two " in output
    assert [each["queue"] for each in said("dead", "one")["letters"]] == ["one"]


def test_a_dead_letter_is_shown_in_whatever_state_it_is(use: Use) -> None:
    async def put_off(broker: Broker) -> None:
        await fill(broker)
        letters = await broker.dead_letters("orders")
        async with anyio.create_task_group() as tg:
            await tg.start(letters.run)
            await (await letters.get())[2].release(delay=60)
            tg.cancel_scope.cancel()
        await letters.get()

    use(put_off)
    found = said("dead", "orders")
    assert (found["total"], len(found["letters"])) == (2, 2)


def test_a_dead_letter_is_a_value_too(use: Use) -> None:
    async def known(broker: Broker) -> None:
        await fill(broker)
        letters = await broker.dead_letters("orders")
        any_key = min(await letters.available_keys())
        await letters.put("known", await letters.peek(any_key))

    use(known)
    assert said("peek", "orders.dead", "known")["value"]["reason"] == "max_deliveries"


def test_that_nothing_has_died_is_no_failure(use: Use) -> None:
    async def healthy(broker: Broker) -> None:
        await broker.create_queue_pair("work")

    use(healthy)
    assert invoke("dead", "work").output == "no dead letters\n"


def test_dead_letters_that_cannot_be_seen_are_counted(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(queue: object) -> set[object]:
        return set()

    monkeypatch.setattr(LeasedKeyQueue, "available_keys", none)
    use(fill)
    assert (
        invoke("dead", "orders").output
        == "2 dead letters, of which none can be read at the moment\n"
    )


def test_a_queue_without_dead_letters_has_none_to_show(use: Use) -> None:
    use(fill)
    result = invoke("dead", "emails")
    assert result.exit_code == 1
    assert (
        "'emails' has no queue of dead letters: items that it gives up are dropped" in result.stderr
    )


@pytest.mark.parametrize(
    "command",
    [
        ("info", "order"),
        ("peek", "order", "key"),
        ("dead", "order"),
        ("purge", "order"),
        ("purge", "order", "--yes"),
        ("pause", "order"),
        ("resume", "order"),
        ("cancel", "order", "key"),
        ("discard", "order", "key"),
        ("redrive", "order"),
        ("put", "order", "key", "1"),
        ("watch", "order"),
    ],
)
def test_a_queue_that_is_not_there_is_not_made(use: Use, command: tuple[str, ...]) -> None:
    brokers: list[Filled] = []

    def kind(fill: Fill) -> Filled:
        brokers.append(Filled(fill))
        return brokers[-1]

    use(fill, kind)
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no queue 'order': did you mean 'orders'?" in result.stderr
    assert result.stderr.count("\n") == 1
    assert all("'order'" not in repr(each._queues) for each in brokers)


@pytest.mark.parametrize(
    "command",
    [
        ("queues",),
        ("info", "orders"),
        ("purge", "orders", "--yes"),
        ("pause", "orders"),
        ("resume", "orders"),
        ("cancel", "orders", "key"),
        ("discard", "orders", "key"),
        ("put", "orders", "key", "1"),
        ("watch",),
    ],
)
def test_a_file_that_is_not_there_is_not_made(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "ordres.db"
    result = invoke(*command, "--url", f"sqlite:///{path}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no file {path}" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_made_with_a_queue_that_is(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    put = ("put", "orders", "key", "1", "--url", f"sqlite:///{path}")
    assert invoke(*put, "--create").output == "added\n"
    assert invoke(*put).output == "replaced\n"
    refused = invoke(*put, "--create", "--url", f"sqlite:///{tmp_path / 'none' / 'new.db'}")
    assert "there is no folder" in refused.stderr


# Putting


@pytest.fixture
def kept(use: Use) -> list[tuple[object, object, dict[str, object]]]:
    """What was put."""
    puts: list[tuple[object, object, dict[str, object]]] = []

    class Recording(Filled):
        async def queue(self, name: str, **options: Any) -> Any:
            queue = await super().queue(name, **options)
            put = queue.put

            async def record(key: Any, value: Any, **options: Any) -> Any:
                puts.append((key, value, options))
                return await put(key, value, **options)

            queue.put = record
            return queue

    use(fill_emails, Recording)
    return puts


async def fill_emails(broker: Broker) -> None:
    await MemoryBroker.queue(broker, "emails", max_size=1)  # type: ignore[arg-type]


def test_an_item_is_put_with_its_options(kept: list[Any]) -> None:
    options = ("--priority", 5, "--tenant", "acme", "--delay", 1.5, "--ttl", 60)
    result = invoke("put", "emails", "int:7", '{"to": "ada"}', *options)
    assert (result.exit_code, result.output) == (0, "added\n")
    [(key, value, given)] = kept
    assert (key, value) == (7, {"to": "ada"})
    assert given == {
        "priority": 5,
        "tenant": "acme",
        "delay": 1.5,
        "ttl": 60.0,
        "if_in_flight": "update",
    }


def test_an_item_is_put_from_a_file_and_from_stdin(kept: list[Any], tmp_path: Any) -> None:
    file = tmp_path / "value.json"
    file.write_text('"från"', encoding="utf-8")
    assert invoke("put", "emails", "a", f"@{file}").exit_code == 0
    assert said("put", "emails", "a", "-", stdin="[1]") == {
        "queue": "emails",
        "key": "a",
        "outcome": "added",
    }
    assert [value for _, value, _ in kept] == ["från", [1]]


def test_a_folder_is_no_value(kept: list[Any], tmp_path: Path) -> None:
    result = invoke("put", "emails", "a", f"@{tmp_path}")
    assert result.exit_code == 2
    assert f"{tmp_path} cannot be read: Is a directory" in result.stderr
    assert "Errno" not in result.stderr


def test_a_priority_that_is_no_number_is_told_those_that_have_names(kept: list[Any]) -> None:
    result = invoke("put", "emails", "a", "1", "--priority", "high")
    assert result.exit_code == 2
    assert "'high' is not a whole number, such as 1 (very_low), 2 (low), 3 (n" in result.stderr
    assert kept == []


@pytest.mark.parametrize("value", ["oops", "@/nowhere/at/all", "-"])
def test_a_value_that_cannot_be_read_is_a_matter_of_usage(kept: list[Any], value: str) -> None:
    result = invoke("put", "emails", "a", value)
    assert result.exit_code == 2
    assert "Invalid value for VALUE" in result.stderr
    assert kept == []


def test_a_key_that_cannot_be_read_is_a_matter_of_usage(kept: list[Any]) -> None:
    result = invoke("put", "emails", "int:x", "1")
    assert result.exit_code == 2
    assert "Invalid value for KEY" in result.stderr


def test_a_queue_is_made_if_that_is_asked_for(kept: list[Any]) -> None:
    refused = invoke("put", "letters", "a", "1")
    assert refused.exit_code == 1
    assert "no queue 'letters' (--create makes one of this name)" in refused.stderr
    assert invoke("put", "letters", "a", "1", "--create").exit_code == 0


def test_a_full_queue_is_waited_for_and_then_given_up(use: Use) -> None:
    async def full(broker: Broker) -> None:
        queue = await broker.queue("emails", max_size=1)
        await queue.put("first", None)

    use(full)
    result = invoke("put", "emails", "second", "1", "--timeout", 0.01)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "had no room for 0.01 s: nothing was put" in result.stderr


def test_what_has_room_is_put_though_no_time_is_to_be_waited(kept: list[Any]) -> None:
    assert invoke("put", "emails", "a", "1", "--timeout", 0).stdout == "added\n"


def test_a_put_that_takes_long_is_not_taken_for_one_without_room(use: Use) -> None:
    class Slow(Filled):
        async def queue(self, name: str, **options: Any) -> Any:
            queue = await super().queue(name, **options)

            async def put(*_: Any, **__: Any) -> object:
                await anyio.sleep(0.3)
                raise ServerUnavailableError("no answer", in_doubt=True)

            queue.put = put
            return queue

    use(fill, Slow)
    result = invoke("put", "orders", "a", "1", "--timeout", 0.01)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "leaseq: no answer: it may have been done, so look before you try again\n"
    )


def test_who_interrupts_a_change_is_told_that_it_may_have_been_done(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Filled):
        async def purge(self, name: str) -> int:
            raise KeyboardInterrupt

    use(fill, Interrupted)
    result = invoke("purge", "orders", "--yes")
    assert result.exit_code == 130
    assert "it may have been done, so look" in result.stderr


def test_what_was_interrupted_before_it_could_begin_was_not_done(use: Use) -> None:
    class Locked(Filled):
        async def __aenter__(self) -> Any:
            raise KeyboardInterrupt

    use(fill, Locked)
    result = invoke("put", "orders", "a", "1")
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize("command", ["info", "dead", "purge", "redrive", "pause", "resume"])
def test_a_name_that_no_queue_can_have_is_a_matter_of_usage(use: Use, command: str) -> None:
    use(fill)
    result = invoke(command, "bad name")
    assert result.exit_code == 2
    assert "invalid queue name" in result.stderr


def test_what_the_queue_refuses_is_told(use: Use) -> None:
    use(fill)
    other = invoke("put", "orders", "order-3", "1", "--tenant", "acme")
    assert other.exit_code == 1
    assert "is there for the tenant 'globex': leave --tenant out" in other.stderr
    leased = invoke("put", "orders", "order-2", "1", "--if-in-flight", "reject")
    assert leased.exit_code == 1
    assert "is leased: --if-in-flight buffer puts it after that" in leased.stderr


def test_a_duplicate_is_not_put(use: Use) -> None:
    async def done(broker: Broker) -> None:
        queue = await broker.queue("emails", dedupe_for=60.0)
        await queue.put("a", None)
        await queue.ack((await queue.get())[2])

    use(done)
    result = invoke("put", "emails", "a", "1")
    assert (result.exit_code, result.stdout) == (1, "duplicate\n")


# Pausing


@pytest.mark.parametrize("key", ["order-3", "order-2"])
def test_an_item_is_cancelled_whether_it_waits_or_is_leased(use: Use, key: str) -> None:
    use(fill)
    result = invoke("cancel", "orders", key, "--reason", "the customer has gone")
    assert (result.exit_code, result.output) == (0, f"cancelled {key} of queue 'orders'\n")
    assert said("cancel", "orders", key) == {"queue": "orders", "key": key, "cancelled": True}


async def fill_cancelled(broker: Broker) -> None:
    """The same, with the leased one cancelled."""
    await fill(broker)
    assert await (await broker.queue("orders")).cancel("order-2")


def test_a_cancelled_lease_is_shown_until_its_holder_has_ended(use: Use) -> None:
    use(fill_cancelled)
    assert "cancelled" in invoke("info", "orders").output
    assert said("info", "orders")["leases"][0]["cancelled"] is True


def test_an_item_is_discarded_if_it_waits(use: Use) -> None:
    use(fill)
    result = invoke("discard", "orders", "order-3")
    assert (result.exit_code, result.output) == (0, "discarded order-3 of queue 'orders'\n")
    result = invoke("discard", "orders", "order-2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "leaseq: key order-2 of queue 'orders' is absent, or leased: cancel ends a lease too\n"
    )


def test_what_is_not_there_is_not_cancelled(use: Use) -> None:
    use(fill)
    result = invoke("cancel", "orders", "int:42", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (
        1,
        {"queue": "orders", "key": "int:42", "cancelled": False},
    )
    assert result.stderr == (
        "leaseq: key int:42 of queue 'orders' is absent, or was cancelled before\n"
    )


async def fill_paused(broker: Broker) -> None:
    """The same, paused as a whole and for one tenant that is there and one that is not."""
    await fill(broker)
    orders = await broker.queue("orders")
    await orders.pause(reason="the disk\nis full")
    await orders.pause("globex", reason="has not paid")
    await orders.pause("initech")


def test_a_queue_is_paused_and_resumed(use: Use) -> None:
    use(fill_paused)
    result = invoke("pause", "orders", "--reason", "another")
    assert (result.exit_code, result.output) == (0, "paused queue 'orders'\n")
    assert said("pause", "orders", "--reason", "another") == {
        "queue": "orders",
        "tenant": None,
        "reason": "another",
    }
    result = invoke("resume", "orders")
    assert (result.exit_code, result.output) == (0, "resumed queue 'orders'\n")
    assert said("resume", "orders") == {"queue": "orders", "tenant": None, "was_paused": True}


def test_a_tenant_is_paused_and_resumed(use: Use) -> None:
    use(fill_paused)
    result = invoke("pause", "orders", "--tenant", "acme")
    assert (result.exit_code, result.output) == (0, "paused tenant 'acme' of queue 'orders'\n")
    assert said("pause", "orders", "--tenant", "acme")["tenant"] == "acme"
    result = invoke("resume", "orders", "--tenant", "globex")
    assert (result.exit_code, result.output) == (0, "resumed tenant 'globex' of queue 'orders'\n")


def test_what_was_not_paused_is_not_resumed(use: Use) -> None:
    use(fill)
    result = invoke("resume", "orders")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "leaseq: queue 'orders' was not paused\n"
    result = invoke("resume", "orders", "--tenant", "acme", "--json")
    assert (result.exit_code, json.loads(result.stdout)["was_paused"]) == (1, False)
    assert result.stderr == "leaseq: tenant 'acme' of queue 'orders' was not paused\n"


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_tenant_with_too_long_a_name_is_refused(use: Use, command: str) -> None:
    use(fill)
    result = invoke(command, "orders", "--tenant", "t" * 300)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "a tenant's name must be 256 bytes at most" in result.stderr


def test_a_list_of_queues_marks_those_that_are_paused(use: Use) -> None:
    use(fill_paused)
    header, *rows = invoke("queues").output.splitlines()[1:]
    assert "paused" in header
    (orders,) = [row for row in rows if row.startswith("│ orders ")]
    assert r"ago: the disk\nis full, and 2 tenants" in orders
    assert "since 20" in orders
    (emails,) = [row for row in rows if row.startswith("│ emails ")]
    assert emails.split("│")[-2].strip() == ""
    use(fill)
    assert "paused" not in invoke("queues").output


def test_a_long_reason_is_cut_in_a_list_and_not_where_one_queue_is_told_of(use: Use) -> None:
    async def fill_long(broker: Broker) -> None:
        await (await broker.queue("work")).pause(reason="because " * 50)

    use(fill_long)
    assert "…" in invoke("queues", COLUMNS="2000").output
    assert ("because " * 50).strip() in invoke("info", "work", COLUMNS="2000").output


def test_one_queue_is_told_of_with_its_pauses(use: Use) -> None:
    use(fill_paused)
    output = invoke("info", "orders").output
    (fact,) = [line for line in output.splitlines() if line.startswith("│ paused ")]
    assert r"s ago: the disk\nis full" in fact
    tenants = [line for line in output.splitlines() if "│" in line and "acme" not in line]
    first = next(line for line in tenants if "globex" in line)
    assert "ago: has not paid" in first
    assert any("initech" in line and "since 20" in line for line in tenants)
    use(fill)
    assert "paused" not in invoke("info", "orders").output


def test_pauses_are_told_for_scripts(use: Use) -> None:
    use(fill_paused)
    info = said("info", "orders")
    assert info["paused"]["reason"] == "the disk\nis full"
    assert {name: each["reason"] for name, each in info["paused_tenants"].items()} == {
        "globex": "has not paid",
        "initech": "",
    }
    assert info["statistics"]["paused"] is True
    told = {each["tenant"]: each["paused"] for each in info["statistics"]["tenants"]}
    assert told == {"acme": False, "globex": True, "initech": True}
    orders, _, emails = said("queues")
    assert (orders["paused"]["reason"], emails["paused"]) == ("the disk\nis full", None)
    assert emails["paused_tenants"] == {}


# Purging and bringing back


def test_a_purge_asks_and_says_what_it_would_drop(use: Use) -> None:
    use(fill)
    result = invoke("purge", "orders", stdin="y\n")
    assert (result.exit_code, result.stdout) == (0, "dropped 1 item\n")
    question = "drop 1 ready and 0 delayed items of 'orders', for good (1 leased ones stay)? [y/N] "
    assert result.stderr == question
    letters = invoke("purge", "orders.dead", stdin="n\n")
    assert "of 'orders.dead', the dead letters of 'orders', for good?" in letters.stderr


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "of course"])
@pytest.mark.parametrize("command", ["purge", "redrive"])
def test_without_a_yes_nothing_is_done(
    use: Use, monkeypatch: pytest.MonkeyPatch, command: str, answer: str
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Filled, "purge", refuse)
    monkeypatch.setattr(LeasedKeyQueue, "redrive", refuse)
    use(fill)
    result = invoke(command, "orders", stdin=answer)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("nothing was done; --yes does it without asking\n")


def test_with_yes_nothing_is_asked(use: Use) -> None:
    use(fill)
    assert said("purge", "orders", "--yes") == {"queue": "orders", "dropped": 1}
    assert said("redrive", "orders", "--yes")["back"] == ["order-0", "order-1"]


def test_nothing_is_asked_where_there_is_nothing_to_do(use: Use) -> None:
    async def healthy(broker: Broker) -> None:
        await broker.create_queue_pair("work")

    use(healthy)
    assert invoke("purge", "work").output == "dropped 0 items\n"
    assert invoke("redrive", "work").output == "brought back 0 items\n"


def test_letters_are_brought_back_by_their_keys_without_asking(use: Use) -> None:
    use(fill)
    assert said("redrive", "orders", "order-1") == {
        "queue": "orders",
        "back": ["order-1"],
        "conflicts": [],
        "missing": [],
    }
    result = invoke("redrive", "orders", "order-1", "order-9")
    assert (result.exit_code, result.stdout) == (1, "brought back 1 item\n")
    assert result.stderr == "leaseq: order-9 has no dead letter to bring back\n"


def test_letters_are_brought_back_the_oldest_first_up_to_a_limit(use: Use) -> None:
    use(fill)
    result = invoke("redrive", "orders", "--limit", 1, "--json", stdin="yes\n")
    assert json.loads(result.stdout)["back"] == ["order-0"]
    assert "bring 1 dead letter back into 'orders'?" in result.stderr


def test_a_letter_whose_key_is_there_again_stays(use: Use) -> None:
    async def again(broker: Broker) -> None:
        await fill(broker)
        await (await broker.queue("orders")).put("order-0", "new")

    use(again)
    result = invoke("redrive", "orders", "--yes")
    assert (result.exit_code, result.stdout) == (1, "brought back 1 item\n")
    assert result.stderr == "leaseq: order-0 stays dead: its key is there again\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("orders.dead", "has the dead letters of 'orders': name the queue to bring them back into"),
        ("emails", "queue 'emails' has no queue of dead letters"),
    ],
)
def test_only_a_queue_with_dead_letters_has_some_to_bring_back(
    use: Use, name: str, message: str
) -> None:
    use(fill)
    result = invoke("redrive", name, "--yes")
    assert result.exit_code == 1
    assert message in result.stderr


# Watching


async def watched(
    use: Use, kind: Callable[[Any], Broker], looks: int, *names: str, interval: float = 2.0
) -> list[Snapshot]:
    """The first looks of a watch."""
    seen: list[Snapshot] = []

    class EnoughError(Exception): ...

    def show(look: Snapshot) -> None:
        seen.append(look)
        if len(seen) == looks:
            raise EnoughError

    with pytest.raises(EnoughError):
        await watch_queues(lambda: kind(fill), names, interval, show)
    return seen


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_watch_tells_how_fast_items_come_and_go(use: Use) -> None:
    class Busy(Filled):
        async def list_queues(self) -> list[QueueInfo]:
            queue = await self.queue("emails")
            for number in range(4):
                await queue.put(number, None)
            await queue.ack((await queue.get())[2])
            return await super().list_queues()

    first, second = await watched(use, Busy, 2, "emails")
    assert first.rates == {}
    assert second.rates == {"emails": (pytest.approx(0.5), pytest.approx(0.5))}


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_watch_says_how_long_there_has_been_no_answer_and_then_goes_on(use: Use) -> None:
    class Slow(Filled):
        looks = 0

        async def list_queues(self) -> list[QueueInfo]:
            Slow.looks += 1
            if Slow.looks == 2:
                await anyio.sleep(100)
            return await super().list_queues()

    began = anyio.current_time()
    looks = await watched(use, Slow, 36)
    assert [look.error is None for look in looks] == [True, *[False] * 33, True, True]
    assert str(looks[1].error).startswith("the server has not answered since ")
    assert anyio.current_time() - began < 100 + 2 + 30 + 1  # it looks again soon


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_watch_outlives_failures_once_it_has_seen_something(use: Use) -> None:
    failures: list[LeaseqError] = [
        ServerUnavailableError("no answer", in_doubt=True),
        UnusableServerError("no server"),
    ]

    class Failing(Filled):
        looks = 0

        async def list_queues(self) -> list[QueueInfo]:
            Failing.looks += 1
            if Failing.looks in (2, 3):
                raise failures[Failing.looks - 2]
            return await super().list_queues()

    looks = await watched(use, Failing, 4)
    assert [look.error for look in looks] == [None, *failures, None]
    assert looks[3].rows


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "error", [ServerUnavailableError("", in_doubt=False), UnusableServerError()]
)
async def test_a_watch_that_has_seen_nothing_ends_with_the_failure(error: LeaseqError) -> None:
    class Failing(Filled):
        async def list_queues(self) -> list[QueueInfo]:
            raise error

    with pytest.raises(type(error)):
        await watch_queues(lambda: Failing(None), (), 1.0, lambda look: None)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_watch_goes_on_when_a_queue_goes_away_and_comes_back(use: Use) -> None:
    class Vanishing(Filled):
        looks = 0
        is_gone = False

        async def list_queues(self) -> list[QueueInfo]:
            Vanishing.looks += 1
            infos = await super().list_queues()
            return infos if Vanishing.looks != 3 else infos[:-1]

        async def queue(self, name: str, **options: Any) -> Any:
            if Vanishing.looks == 2 and not Vanishing.is_gone:
                Vanishing.is_gone = True
                raise QueueClosedError("it was deleted")
            return await super().queue(name, **options)

    before, during, gone, after = await watched(use, Vanishing, 4, "emails")
    assert before.rows[0].statistics is not None
    assert during.rows[0].statistics is None
    assert isinstance(gone.error, CommandError)
    assert after.rows[0].statistics is not None


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_watch_rests_longer_after_a_look_that_took_long(use: Use) -> None:
    times: list[float] = []

    class Slow(Filled):
        async def list_queues(self) -> list[QueueInfo]:
            times.append(anyio.current_time())
            await anyio.sleep(1.0)
            return await super().list_queues()

    await watched(use, Slow, 3)
    assert [late - early for early, late in pairwise(times)] == [
        pytest.approx(11.0),
        pytest.approx(11.0),
    ]


class Interrupting(Filled):
    """Ctrl-C comes while the third look is taken; the second one fails."""

    looks = 0

    async def list_queues(self) -> list[QueueInfo]:
        Interrupting.looks += 1
        if Interrupting.looks == 2:
            raise ServerUnavailableError("no answer\nfrom anybody", in_doubt=False)
        if Interrupting.looks == 3:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep(10)
        return await super().list_queues()


@pytest.fixture
def interrupted(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leaseq._cli.watch._GRACE", 60.0)  # then it would end the tests' process
    Interrupting.looks = 0
    use(fill, Interrupting)


def test_a_watch_ends_with_an_interrupt_and_has_shown_a_line_each_time(interrupted: None) -> None:
    result = invoke("watch", "--interval", 0.1, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["queues"][0]["name"] == "orders"
    assert first["queues"][0]["put_per_second"] is None
    assert second["error"] == "no answer from anybody"


@pytest.mark.parametrize("terminal", [True, False], ids=["on a terminal", "elsewhere"])
def test_a_watch_shows_tables(interrupted: None, terminal: bool) -> None:
    environment = {"FORCE_COLOR": "1", "TERM": "xterm"} if terminal else {}
    result = invoke("watch", "--interval", 0.1, **environment)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "valkey://example.org:6379/0" in result.stdout
    assert "oldest ready" in result.stdout
    assert "no answer from anybody" in result.stdout
    assert "hunter2" not in result.stdout


def test_a_watch_shows_what_is_paused(interrupted: None, use: Use) -> None:
    use(fill_paused, Interrupting)
    assert r"ago: the disk\nis full, and 2 tenants" in invoke("watch", "--interval", 0.1).stdout


def test_a_watch_tells_scripts_what_is_paused(interrupted: None, use: Use) -> None:
    use(fill_paused, Interrupting)
    documents = invoke("watch", "--interval", 0.1, "--json").stdout.splitlines()
    orders = json.loads(documents[0])["queues"][0]
    assert (orders["paused"]["reason"], len(orders["paused_tenants"])) == ("the disk\nis full", 2)


def test_a_watch_of_nothing_says_so(interrupted: None, use: Use) -> None:
    use(None, Interrupting)
    assert "there are no queues" in invoke("watch", "--interval", 0.1).stdout


# What goes wrong


@pytest.mark.parametrize("url", ["memory://", "MEMORY:", "memory:///"])
def test_memory_is_refused_with_the_reason(url: str) -> None:
    result = invoke("queues", LEASEQ_URL=url)
    assert result.exit_code == 2
    assert "memory:// begins and ends with this process" in result.stderr


@pytest.mark.parametrize(
    "url",
    ["amqp://ada:hunter2@localhost", "valkey://ada:hunt#er2@localhost", "valkey://:hunter2@:x"],
)
@pytest.mark.parametrize("command", ["queues", "watch"])
def test_a_url_that_is_none_is_refused_without_its_password(command: str, url: str) -> None:
    result = invoke(command, "--url", url)
    assert result.exit_code == 2
    assert "Invalid value for --url" in result.stderr
    assert "er2" not in result.output


def test_without_a_url_one_is_asked_for() -> None:
    result = invoke("queues", LEASEQ_URL="")
    assert result.exit_code == 2
    assert "--url" in result.stderr
    assert "LEASEQ_URL" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("queues", "info", "watch", "put", "peek", "purge", "cancel", "discard", "pause"),
        *("resume", "dead", "redrive"),
    ],
)
def test_help_does_not_show_the_url(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert "example.org" not in result.output


class Broken(Filled):
    error: Exception

    async def list_queues(self) -> list[QueueInfo]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ServerUnavailableError("no answer\n from x", in_doubt=True), "leaseq: no answer from x\n"),
        (ExceptionGroup("", [LookupError("no such thing")]), "leaseq: no such thing\n"),
    ],
)
def test_what_goes_wrong_is_one_line(
    use: Use, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    monkeypatch.setattr(Broken, "error", error, raising=False)
    use(fill, Broken)
    result = invoke("queues")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)


def test_who_changes_something_is_told_that_it_may_have_been_done() -> None:
    error = ServerUnavailableError("no answer", in_doubt=True)
    assert "may have been done, so look" in describe_error(error, URL, changes=True)


def test_a_bug_is_one_line_that_says_where(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "error", ZeroDivisionError("by\nzero"), raising=False)
    use(fill, Broken)
    line = invoke("queues").stderr
    assert line.startswith("leaseq: unexpected ZeroDivisionError at test_operating.py:")
    assert line.endswith(": by zero\n")


def test_a_bug_with_the_password_in_it_is_told_without() -> None:
    try:
        raise RuntimeError("cannot log in with p@ss")
    except RuntimeError as error:
        line = describe_error(error, "valkey://:p%40ss@localhost")
    assert line.startswith("unexpected RuntimeError at test_operating.py:")
    assert "p@ss" not in line


def test_a_pipe_that_nobody_reads_is_no_failure_of_the_queue(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "error", OutputError(32, "Broken pipe"), raising=False)
    use(fill, Broken)
    result = invoke("queues")
    assert isinstance(result.exception, OutputError)  # of which `main` makes an exit code
    assert result.stderr == ""


@pytest.mark.anyio
async def test_many_queues_are_looked_at_together() -> None:
    async with MemoryBroker() as broker:
        for number in range(600):
            await broker.queue(f"queue-{number}")
        rows = await find_rows(broker)
    assert [row.info.name for row in rows] == [f"queue-{number}" for number in range(600)]
