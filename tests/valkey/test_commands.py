"""The commands of an operator, on a real server."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import anyio
import pytest
from tests.servers import Server, free_port
from tests.valkey.conftest import MakeServer
from typer.testing import CliRunner, Result

import leaseq
from leaseq import Retry
from leaseq._cli import make_app

PASSWORD = "s3cr3t/w@rd"
QUOTED = "s3cr3t%2Fw%40rd"

COMMANDS = [
    ("queues",),
    ("info", "orders"),
    ("put", "orders", "new", "1"),
    ("peek", "orders", "order-1"),
    ("purge", "orders", "--yes"),
    ("pause", "orders"),
    ("resume", "orders"),
    ("dead", "orders"),
    ("redrive", "orders", "--yes"),
    ("watch",),
]


def invoke(url: str, *arguments: str, stdin: str | None = None) -> Result:
    environment = {"LEASEQ_URL": url, "COLUMNS": "200"}
    return CliRunner().invoke(make_app(), [*arguments], input=stdin, env=environment)


def said(url: str, *arguments: str) -> Any:
    result = invoke(url, *arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def fill(url: str) -> None:
    """Put four orders, of which one dies."""

    async def main() -> None:
        async with leaseq.connect(url) as broker:
            queue, _ = await broker.create_queue_pair("orders", retry=Retry(max_deliveries=1))
            await queue.put_many([(f"order-{number}", number) for number in range(4)])
            lease = (await queue.get())[2]
            await queue._fail(lease, OSError("reset"))

    anyio.run(main)


@contextmanager
def started(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own."""
    environment = os.environ | {"LEASEQ_URL": url, "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "leaseq", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def line_of(stream: IO[str] | None) -> Any:
    assert stream is not None
    return json.loads(stream.readline())


# What they do


def test_a_night_on_call(server: Server) -> None:
    url = server.url
    fill(url)
    orders, letters = said(url, "queues")
    assert (orders["name"], orders["ready"], orders["dead"]) == ("orders", 3, 1)
    assert letters["dead_letters_of"] == ["orders"]
    assert orders["oldest_ready_age"] >= 0
    (letter,) = said(url, "dead", "orders")["letters"]
    assert (letter["key"], letter["value"], letter["error"]) == ("order-0", 0, "OSError: reset")
    assert said(url, "redrive", "orders", letter["key"])["back"] == ["order-0"]
    assert said(url, "dead", "orders") == {"queue": "orders", "total": 0, "letters": []}
    assert said(url, "put", "orders", "int:7", '{"a": 1}', "--delay", "60")["outcome"] == "added"
    assert said(url, "peek", "orders", "int:7")["value"] == {"a": 1}
    assert invoke(url, "peek", "orders", "7").exit_code == 1
    statistics = said(url, "info", "orders")["statistics"]
    assert (statistics["ready"], statistics["delayed"]) == (4, 1)
    assert invoke(url, "purge", "orders", stdin="n\n").exit_code == 1
    assert invoke(url, "pause", "orders", "--reason", "a reason").exit_code == 0
    assert said(url, "pause", "orders", "--tenant", "acme")["tenant"] == "acme"
    paused = said(url, "info", "orders")
    assert (paused["paused"]["reason"], [*paused["paused_tenants"]]) == ("a reason", ["acme"])
    assert said(url, "queues")[0]["paused"] == paused["paused"]
    assert said(url, "resume", "orders")["was_paused"] is True
    assert said(url, "resume", "orders", "--tenant", "acme")["was_paused"] is True
    assert invoke(url, "resume", "orders").exit_code == 1
    assert said(url, "purge", "orders", "--yes")["dropped"] == 5
    assert [each["ready"] for each in said(url, "queues")] == [0, 0]


def test_the_latest_letters_are_found_among_many(server: Server) -> None:
    async def main() -> None:
        async with leaseq.connect(server.url) as broker:
            queue, _ = await broker.create_queue_pair("orders")
            for first in (0, 300):
                await queue.put_many([(number, 1) for number in range(first, first + 300)])
            for lease in await queue.get_batch(600):
                await queue.reject(lease, "bad")

    anyio.run(main)
    found = said(server.url, "dead", "orders", "--limit", "2")
    assert found["total"] == 600
    assert [each["key"] for each in found["letters"]] == ["int:599", "int:598"]
    assert len(said(server.url, "redrive", "orders", "--yes")["back"]) == 600


def test_a_lease_is_shown_with_who_has_it_and_for_how_long(server: Server) -> None:
    fill(server.url)

    async def main() -> str:
        async with leaseq.connect(server.url) as broker, anyio.create_task_group() as tg:
            await tg.start(broker.run)
            queue = await broker.queue("orders")
            await queue.get(lease_timeout=600.0, consumer="worker-1")
            command = [sys.executable, "-m", "leaseq", "info", "orders", "--url", server.url]
            process = await anyio.run_process([*command, "--json"])
            tg.cancel_scope.cancel()
        return process.stdout.decode()

    (lease,) = json.loads(anyio.run(main))["leases"]
    assert (lease["key"], lease["consumer"], lease["deliveries"]) == ("order-1", "worker-1", 1)
    assert 0 <= lease["age"] < 60
    assert 500 < lease["left"] <= 600


def test_options_of_a_queue_and_bodies_that_are_not_json_are_no_hindrance(server: Server) -> None:
    class Upside:
        def encode(self, value: str) -> bytes:
            return value[::-1].encode()

        def decode(self, body: bytes) -> str:
            return body.decode()[::-1]

    async def main() -> None:
        async with leaseq.connect(server.url) as broker:
            queue = await broker.queue(
                "odd", dead_letters="morgue", codec=Upside(), max_size=1, history=3
            )
            await queue.put("dead", "dead")
            await queue.reject((await queue.get())[2], "bad")
            await queue.put("there", "there")

    anyio.run(main)
    assert said(server.url, "peek", "odd", "there")["bytes"] == "ZXJlaHQ="
    assert said(server.url, "dead", "odd")["letters"][0]["bytes"] == "ZGFlZA=="
    assert said(server.url, "dead", "morgue")["letters"][0]["bytes"] == "ZGFlZA=="
    result = invoke(server.url, "put", "odd", "more", "1", "--timeout", "0.05")
    assert result.exit_code == 1
    assert "had no room" in result.stderr
    assert said(server.url, "info", "odd")["ready"] == 1


@pytest.mark.parametrize("command", ["info", "peek", "dead", "purge", "redrive", "put", "watch"])
def test_looking_for_what_is_not_there_makes_nothing(server: Server, command: str) -> None:
    more = {"peek": ["key"], "put": ["key", "1"]}.get(command, [])
    result = invoke(server.url, command, "absent", *more)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no queue 'absent'" in result.stderr
    assert said(server.url, "queues") == []


# Watching


def test_a_watch_shows_a_line_each_time_until_an_interrupt(own_server: Server) -> None:
    fill(own_server.url)
    with started(own_server.url, "watch", "orders", "--json", "--interval", "0.1") as process:
        first, second = line_of(process.stdout), line_of(process.stdout)
        process.send_signal(signal.SIGINT)
        code, _, err = end_of(process)
    assert (code, err) == (0, "")
    assert [each["name"] for each in first["queues"]] == ["orders"]
    assert second["queues"][0]["put_per_second"] == 0
    assert second["at"] > first["at"]


def test_a_watch_outlives_the_server(own_server: Server) -> None:
    fill(own_server.url)
    with started(own_server.url, "watch", "--json", "--interval", "0.1") as process:
        assert len(line_of(process.stdout)["queues"]) == 2
        own_server.restart()  # which forgets all
        while line_of(process.stdout)["queues"]:
            pass
        process.send_signal(signal.SIGINT)
        code, _, err = end_of(process)
    assert (code, err) == (0, "")


def test_a_watch_of_a_frozen_server_can_be_left(own_server: Server) -> None:
    fill(own_server.url)
    url = f"{own_server.url}?request_timeout=0.3"
    with started(url, "watch", "--json", "--interval", "0.1") as process:
        line_of(process.stdout)
        with own_server.frozen():
            process.send_signal(signal.SIGINT)
            code, _, err = end_of(process)
    assert (code, err) == (0, "")


# Passwords, and servers that are not there


def everything_said(url: str) -> Iterator[str]:
    """What all commands write, also for help and about what is wrong with the URL."""
    for command in COMMANDS:
        if command[0] != "watch":
            for arguments in (command, (*command, "--json")):
                result = invoke(url, *arguments)
                yield result.output + repr(result.exception)
        yield invoke(url, command[0], "--help").output
        yield invoke(url, command[0], "--limit", "0").output
        yield invoke(url, command[0], "--url", f"{url}/x").output
        yield invoke("", command[0], "--url", f"{url}@x").output


def test_no_password_is_ever_shown(make_server: MakeServer) -> None:
    server = make_server("--requirepass", PASSWORD)
    url = f"valkey://:{QUOTED}@127.0.0.1:{server.port}/0"
    fill(url)
    assert said(url, "queues")
    with started(url, "watch", "--interval", "0.1") as process:
        assert process.stdout is not None
        shown = "".join(process.stdout.readline() for _ in range(5))
        process.send_signal(signal.SIGINT)
        code, out, err = end_of(process)
    assert code == 0
    assert f"valkey://127.0.0.1:{server.port}/0" in shown
    for text in (shown, out, err, *everything_said(url)):
        assert not re.search("s3cr3t|w@rd|w%40rd", text)


def test_a_wrong_password_and_an_absent_server_are_one_line(make_server: MakeServer) -> None:
    server = make_server("--requirepass", PASSWORD)
    wrong = f"valkey://:{QUOTED}x@127.0.0.1:{server.port}/0"
    absent = f"valkey://:{QUOTED}@127.0.0.1:{free_port()}/0"
    for command in (COMMANDS[0], COMMANDS[2], COMMANDS[-1]):
        for url, reason in ((wrong, "does not know that user"), (absent, "no server at")):
            result = invoke(url, *command)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith("leaseq: ")
            assert result.stderr.count("\n") == 1
            assert reason in result.stderr
            assert "s3cr3t" not in result.stderr


def test_what_the_server_refuses_is_one_line(make_server: MakeServer) -> None:
    server = make_server()
    fill(server.url)
    server.command("CONFIG", "SET", "maxmemory", "1")
    result = invoke(server.url, "put", "orders", "new", "1")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "OOM" in result.stderr
