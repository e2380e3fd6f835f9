"""The words of a call: each operation takes its own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from anyio import create_task_group
from tests.servers import Server
from tests.valkey.calls import CALLS, Scene, outcome

from leaseq._valkey import store
from leaseq._valkey.client import Script
from leaseq.valkey import ValkeyBroker, ValkeyUrl

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("there", [True, False], ids=["there", "gone"])
async def test_no_operation_takes_words_of_the_next(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    at_the_end = "  store_queues()\n"

    def strict(script: Script) -> Script:
        assert at_the_end in script.source
        check = at_the_end + '  if cursor ~= #ARGV then error("not its own words") end\n'
        return replace(script, source=script.source.replace(at_the_end, check))

    for name, script in store._SCRIPTS.items():
        monkeypatch.setitem(store._SCRIPTS, name, strict(script))
    monkeypatch.setattr(store, "_HANDSHAKE", strict(store._HANDSHAKE))
    for name, call in CALLS.items():
        if not there and name == "get what is put":
            continue  # two tasks that are told: a group of errors
        shared_server.command("FLUSHALL")
        async with (
            ValkeyBroker(ValkeyUrl.parse(shared_server.url)) as broker,
            create_task_group() as tg,
        ):
            await tg.start(broker.run)
            scene = await Scene().set(broker)
            if not there:
                shared_server.command("FLUSHALL")
            with suppress(LookupError):
                assert await outcome(call, scene) != "ServerError", name
            tg.cancel_scope.cancel()
