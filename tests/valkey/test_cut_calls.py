"""Connections that are cut, at any byte of any call: one effect, and the truth about it.

``pytest tests/valkey/test_cut_calls.py --seed 7`` has other things go wrong than usual.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import get_args
from unittest.mock import patch

import pytest
from anyio import create_task_group, fail_after
from tests.remote.mishaps import cut_off, dispatcher_of, lossy, replies_lost
from tests.servers import Server
from tests.valkey.calls import CALLS, Call, Scene, outcome, picture
from tests.valkey.engine import store_of
from tests.valkey.wire import Fault, Side, Wire

from leaseq._core.errors import ServerUnavailableError
from leaseq._valkey import scripts
from leaseq._valkey.operations import OPERATIONS
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio

EDGES: tuple[tuple[Side, float], ...] = (
    ("request", 0.0),
    ("request", 1.0),
    ("reply", 0.0),
    ("reply", 1.0),
)
"""Before a call is sent, after it is, before its reply, and after that: all else is between."""

SOME = ("put", "get", "take", "ack", "release", "transaction", "queue", "redrive", "purge", "peek")
"""Calls of each kind."""

KINDS = {layout.name: kind for kind, layout in OPERATIONS.items()}
"""The operations of the protocol, by the words by which they are known on the wire."""


def test_every_operation_of_the_scripts_is_asked_for() -> None:
    operations = {
        name
        for script in (scripts.COMMANDS, scripts.QUERIES, scripts.ADMIN, scripts.HANDSHAKE)
        for table in re.findall(r"^local ops = \{(.*?)\}\n", script, re.DOTALL | re.MULTILINE)
        for name in re.findall(r"(\w+) = ", table)
    }
    assert {call.word for call in CALLS.values()} == operations


def broker_on(url: str, *, patience: float = 10.0) -> ValkeyBroker:
    return ValkeyBroker(ValkeyUrl.parse(url), patience=patience)


@asynccontextmanager
async def looking(server: Server, prefix: str) -> AsyncIterator[ValkeyBroker]:
    """A broker on the same queues, on which nothing goes wrong."""
    async with broker_on(f"{server.url}?prefix={prefix}") as broker:
        yield broker


async def undisturbed(server: Server, call: Call) -> tuple[object, object, object]:
    """What is there before a call, what comes of it, and what is there after it."""
    prefix = uuid.uuid4().hex
    async with looking(server, prefix) as other, broker_on(f"{server.url}?prefix={prefix}") as mine:
        scene = await Scene().set(mine)
        before = await picture(other)
        return before, await outcome(call, scene), await picture(other)


async def served(scene: Scene) -> None:
    """Ask again and again, until there is an answer."""
    while True:
        with suppress(ServerUnavailableError):
            await scene.empty.qsize()
            return


def faults_at(name: str) -> list[Fault]:
    """A call is cut at the edges, and at places between them that its name decides."""
    chance = random.Random(name)
    places = [*EDGES, *((side, chance.random()) for side in get_args(Side) for _ in range(2))]
    return [Fault(CALLS[name].word.encode(), side, at) for side, at in places]


def faults_from(seed: int, name: str) -> list[Fault]:
    """Whatever may happen to a call, as the seed decides."""
    return [Fault.drawn((seed, number), CALLS[name].word.encode()) for number in range(4)]


async def check_done_once(server: Server, call: Call, faults: list[Fault]) -> None:
    """See that faults make no difference to a call, each on a wire of its own."""
    _, expected, after = await undisturbed(server, call)

    async def check(fault: Fault) -> None:
        wire, prefix = Wire(server), uuid.uuid4().hex
        async with (
            wire.listening(f"?request_timeout=0.5&prefix={prefix}") as url,
            looking(server, prefix) as other,
            broker_on(url) as broker,
            create_task_group() as tg,
        ):
            scene = await Scene().set(broker)
            await tg.start(broker.run)
            wire.plan(fault)
            if fault.kind == "stall":
                tg.start_soon(wire.mend_after, 0.6)
            assert await outcome(call, scene) == expected, fault
            assert await picture(other) == after, fault
            assert wire.happened == [fault]
            tg.cancel_scope.cancel()

    with fail_after(60):
        async with create_task_group() as checks:
            for fault in faults:
                checks.start_soon(check, fault)


@contextmanager
def handshakes_lost(broker: ValkeyBroker, fates: Sequence[bool]) -> Iterator[list[object]]:
    """Lose the replies to handshakes, which are no exchanges, as `replies_lost` does to these."""
    lost: list[object] = []
    client = store_of(broker)._client
    with patch.object(client, "script", lossy(fates, lost)(client.script)):
        yield lost


@pytest.mark.usefixtures("skipping")
@pytest.mark.only("asyncio")
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_whose_replies_are_lost_is_done_once(shared_server: Server, name: str) -> None:
    call, prefix = CALLS[name], uuid.uuid4().hex
    _, expected, after = await undisturbed(shared_server, call)
    with fail_after(60):
        async with (
            looking(shared_server, prefix) as other,
            broker_on(f"{shared_server.url}?prefix={prefix}") as broker,
            create_task_group() as tg,
        ):
            scene = await Scene().set(broker)
            await tg.start(broker.run)
            losing = handshakes_lost if name == "hello" else replies_lost
            with losing(broker, [False, True, True]) as lost:
                assert await outcome(call, scene) == expected
            assert len(lost) == 3
            assert await picture(other) == after
            tg.cancel_scope.cancel()


@pytest.mark.usefixtures("skipping")
@pytest.mark.only("trio")
@pytest.mark.parametrize("name", SOME)
async def test_who_gives_up_is_told_the_truth_of_it(shared_server: Server, name: str) -> None:
    call = CALLS[name]
    before, _, after = await undisturbed(shared_server, call)
    for is_done in (False, True):
        prefix = uuid.uuid4().hex
        async with (
            looking(shared_server, prefix) as other,
            broker_on(f"{shared_server.url}?prefix={prefix}", patience=0.05) as broker,
        ):
            scene = await Scene().set(broker)
            with cut_off(broker, KINDS[call.word], is_done=is_done):
                with pytest.raises(ServerUnavailableError) as caught:
                    await call.make(scene)
                assert caught.value.in_doubt
                assert (await picture(other) != before) <= is_done
            await served(scene)  # what was in doubt goes first
            assert await picture(other) == (after if call.given_up == "done" else before)


@pytest.mark.slow
@pytest.mark.only("asyncio")
@pytest.mark.parametrize("name", CALLS)
async def test_wherever_a_call_is_cut_it_is_done_once(shared_server: Server, name: str) -> None:
    await check_done_once(shared_server, CALLS[name], faults_at(name))


@pytest.mark.slow
@pytest.mark.only("trio")
@pytest.mark.parametrize("name", CALLS)
async def test_whatever_happens_to_a_call_it_is_done_once(
    shared_server: Server, name: str, request: pytest.FixtureRequest
) -> None:
    faults = faults_from(request.config.getoption("seed"), name)
    await check_done_once(shared_server, CALLS[name], faults)


@pytest.mark.slow
@pytest.mark.only("trio")
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.given_up != "never"])
async def test_who_gives_up_is_told_whether_it_may_have_been_done(
    shared_server: Server, name: str
) -> None:
    call = CALLS[name]
    before, _, after = await undisturbed(shared_server, call)

    async def check(side: Side, at: float) -> None:
        wire, prefix = Wire(shared_server), uuid.uuid4().hex
        async with (
            wire.listening(f"?request_timeout=0.5&prefix={prefix}") as url,
            looking(shared_server, prefix) as other,
            broker_on(url) as broker,
        ):
            scene = await Scene().set(broker)
            broker._patience = dispatcher_of(broker)._patience = 0.05
            wire.plan(Fault(call.word.encode(), side, at, "end"))
            with pytest.raises(ServerUnavailableError) as caught:
                await call.make(scene)
            is_done = await picture(other) != before
            assert caught.value.in_doubt or not is_done
            wire.mend()
            await served(scene)  # what was in doubt goes first
            comes = caught.value.in_doubt and call.given_up == "done"
            assert await picture(other) == (after if comes else before)

    with fail_after(60):
        async with create_task_group() as checks:
            for side, at in EDGES[:3]:
                checks.start_soon(check, side, at)
