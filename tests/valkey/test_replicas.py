"""Waiting for replicas: what an answer is worth, by what the server says of its copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from leaseq._core.errors import ServerError, ServerUnavailableError
from leaseq._valkey.client import Functions, Reply, Script
from leaseq._valkey.connection import Arg
from leaseq._valkey.replication import ReplicatedClient

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

PUT = Script("return 1")
LOOK = Script("return 2", changes=False)
KEYS = ("{leaseq}:calls",)
WORDS = ("0", "0", "process", "17")


class Told:
    """A client whose server gives these answers, to one pipeline after the other."""

    is_cluster = True

    def __init__(self, *answers: list[object]) -> None:
        self._answers = [*answers]
        self.asked: list[tuple[Sequence[Arg], ...]] = []
        self.functions = Functions()

    async def script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Reply:
        return [script.source.encode()]

    async def command(self, *args: Arg) -> object:
        raise AssertionError(args)

    async def pipeline(self, *commands: Sequence[Arg]) -> list[object]:
        self.asked.append(commands)
        return self._answers.pop(0)

    async def listen(self) -> None: ...

    async def close(self) -> None: ...


async def asked(client: Told, *, replicas: int = 1, timeout: float = 0.4) -> Any:
    return await ReplicatedClient(client, replicas, timeout).script(PUT, KEYS, WORDS)


@pytest.mark.parametrize("copies", [2, 3])
async def test_what_enough_replicas_have_is_done(copies: int) -> None:
    client = Told([[b"ok"], 1, copies])
    assert await asked(client, replicas=2) == [b"ok"]
    [(call, proof, wait)] = client.asked
    assert (call[:2], call[3:]) == (("EVALSHA", PUT.sha), (*KEYS, *WORDS))
    assert proof[3:] == (*KEYS, "process", "17")  # it is this call that the server must know
    assert wait == ("WAIT", "2", "200")  # half of the time that an answer may take


@pytest.mark.parametrize("copies", [0, 1])
async def test_who_waits_in_vain_for_replicas_is_told_that_it_may_have_been_done(
    copies: int,
) -> None:
    with pytest.raises(ServerUnavailableError, match=f"{copies} of 2 replicas have") as caught:
        await asked(Told([[b"ok"], 1, copies]), replicas=2)
    assert caught.value.in_doubt


async def test_copies_are_worth_nothing_on_a_server_that_did_not_do_it() -> None:
    with pytest.raises(ServerUnavailableError, match="not by the server whose") as caught:
        await asked(Told([[b"ok"], 0, 1]))
    assert caught.value.in_doubt


@pytest.mark.parametrize("copies", [ServerError("ERR no", code="ERR"), None])
async def test_an_answer_that_is_no_number_of_replicas_is_none(copies: object) -> None:
    with pytest.raises(ServerUnavailableError, match="of 1 replicas") as caught:
        await asked(Told([[b"ok"], 1, copies]))
    assert caught.value.in_doubt


async def test_what_is_refused_is_refused_whatever_is_waited_for() -> None:
    full = ServerError("OOM", code="OOM")
    with pytest.raises(ServerError) as caught:
        await asked(Told([full, 0, 0]))
    assert caught.value is full


async def test_a_server_that_takes_no_writes_says_so_whatever_is_waited_for() -> None:
    assert await asked(Told([[b"0", b"refused"], 0, 0])) == [b"0", b"refused"]


async def test_a_script_that_the_server_forgot_is_sent_in_full_and_waited_for() -> None:
    client = Told([ServerError("NOSCRIPT", code="NOSCRIPT"), 0, 0], [[b"ok"], 1, 1])
    assert await asked(client) == [b"ok"]
    _, (call, *rest) = client.asked
    assert call[:2] == ("EVAL", PUT.source)
    assert len(rest) == 2


async def test_who_only_looks_waits_for_none() -> None:
    client = Told()
    assert await ReplicatedClient(client, 1, 5.0).script(LOOK, KEYS, WORDS) == [b"return 2"]
    assert client.asked == []
