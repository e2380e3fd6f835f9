"""Every call of the engine, by the operations that it asks the server for, and what it has done."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import anyio
from tests.valkey.engine import store_of

import leaseq
from leaseq import Lease, Retry, Tenant
from leaseq._core.kept import Kept
from leaseq._remote import protocol
from leaseq._remote.protocol import Operation, Park, QueueRef, Want
from leaseq._valkey.store import _shake_hands
from leaseq.valkey import RemoteQueue, ValkeyBroker, ValkeyUrl

Queue = RemoteQueue[Any, Any]

ANY = Want("any")
PARKS = (Park(ANY, 1),)
VALUE = Kept("kept", b"1", 600.0, b"-")
NEW = (VALUE._replace(body=b"2"), VALUE._replace(name="new"))


class Scene:
    """A few queues with something in them, and leases, for calls to do something with."""

    broker: ValkeyBroker
    queue: Queue
    small: Queue
    empty: Queue
    held: list[Lease[Any, Any]]

    async def set(self, broker: ValkeyBroker) -> Scene:
        """Set it, with a broker of its own."""
        self.broker = broker
        self.queue = await broker.queue(
            "work", dead_letters="dead", history=9, dedupe_for=60, retry=Retry(max_deliveries=2)
        )
        self.small = await broker.queue("small", max_size=1)
        self.empty = await broker.queue("empty")
        await self.queue.put_many({str(number): number for number in range(6)})
        await self.small.put("full", 1)
        await self.queue._keep([VALUE])
        self.held = []
        for _ in range(3):
            self.held.append((await self.queue.get(consumer="ada"))[2])
        await self.held.pop().reject("no good")
        return self

    @property
    def first(self) -> Lease[Any, Any]:
        """A lease."""
        return self.held[0]

    async def ask(self, make: Callable[[QueueRef], Operation[Any]]) -> Any:
        """Ask what no call asks by itself alone."""
        engine = self.queue._engine
        return await engine.perform(make(engine.ref))

    async def shake_hands(self) -> str:
        """Do the handshake of another process, on the same way to the server."""
        store = store_of(self.broker)
        prefix = store._broker_keys[0][1:].partition("}")[0]
        options = f"prefix={prefix}&connect_timeout={self.broker._patience}"
        url = ValkeyUrl.parse(f"valkey://there/0?{options}")
        permissions = await _shake_hands(store._client, url, uuid.uuid4().hex)
        return permissions.missing

    async def transact(self) -> None:
        async with self.broker.transaction() as tx:
            tx.ack(self.first)
            tx.put(self.empty, "next", 1)

    async def give_up_a_batch(self) -> str:
        """Lease one item more than there are, and be cancelled while waiting for it."""
        with anyio.move_on_after(0.2):
            await self.queue.get_batch(4, max_wait=60)
        return str(await self.queue.qsize())  # which is asked for after what goes back

    async def hold_on(self) -> Any:
        """Put off the end of a lease that was cancelled, for a thread."""
        key, token = self.first.key, self.first.token
        await self.ask(lambda queue: protocol.Cancel(queue, key, "why"))
        return await self.ask(lambda queue: protocol.HoldOn(queue, key, token, inf))

    async def ack_what_is_cancelled(self) -> Any:
        """Acknowledge a lease that was cancelled, as a process that has not heard of it."""
        key, token = self.first.key, self.first.token
        await self.ask(lambda queue: protocol.Cancel(queue, key, "why"))
        return await self.ask(lambda queue: protocol.Ack(queue, key, token))

    async def wait_and_put(self) -> Any:
        """Wait for an item, and put it."""
        async with anyio.create_task_group() as tg:

            async def put() -> None:
                await self.empty.put("late", 1)

            tg.start_soon(put)
            return await self.empty.get()


@dataclass(frozen=True)
class Call:
    """A call of the engine.

    Attributes:
        word: That by which it is known on the wire.
        make: Makes it.
        given_up: What becomes of it when the server cannot be reached any more: it is done when it
            can, or what it has leased goes back; some never give up.
    """

    word: str
    make: Callable[[Scene], Awaitable[Any]]
    given_up: Literal["done", "back", "never"] = "done"


CALLS: Mapping[str, Call] = {
    "put": Call("put", lambda scene: scene.queue.put("new", 1)),
    "put many": Call("put", lambda scene: scene.queue.put_many({"new": 1, "0": 2, "5": 2})),
    "put in flight": Call("put", lambda s: s.queue.put(s.first.key, 2, if_in_flight="buffer")),
    "put refused": Call("put", lambda s: s.queue.put(s.first.key, 2, if_in_flight="reject")),
    "get": Call("claim", lambda scene: scene.queue.get(timeout=0), "back"),
    "get what is put": Call("claim", lambda scene: scene.wait_and_put(), "never"),
    "take": Call("claim", lambda scene: scene.queue.take("5", timeout=0), "back"),
    "get batch": Call("claim", lambda scene: scene.queue.get_batch(2), "never"),
    "ack": Call("ack", lambda scene: scene.first.ack()),
    "release": Call("release", lambda scene: scene.first.release(requeue_front=True)),
    "fail": Call("release", lambda scene: scene.queue._fail(scene.first, ValueError("no"))),
    "give back": Call("give_back", lambda scene: scene.queue._give_back(scene.first)),
    "reject": Call("reject", lambda scene: scene.first.reject("no good either")),
    "ack and keep": Call("ack", lambda scene: scene.queue._ack_and_keep(scene.first, NEW)),
    "reject and keep": Call("reject", lambda s: s.queue._reject_and_keep(s.first, "no", NEW)),
    "keep": Call("keep_values", lambda scene: scene.queue._keep(NEW)),
    "recall": Call("recall", lambda scene: scene.queue._recall("kept", None)),
    "stop waiting": Call(
        "stop_waiting", lambda scene: scene.ask(lambda q: protocol.StopWaiting(q, ("kept",)))
    ),
    "extend": Call("extend", lambda scene: scene.first.extend(None)),
    "undo": Call("undo", lambda scene: scene.give_up_a_batch(), "never"),
    "close": Call("close", lambda scene: scene.queue.close(), "never"),
    "sweep": Call("sweep", lambda scene: scene.broker.process_expired()),
    "wake": Call("wake", lambda scene: scene.ask(lambda q: protocol.Wake(q, ANY))),
    "unpark": Call("unpark", lambda scene: scene.ask(lambda q: protocol.Unpark(q, PARKS))),
    "parked": Call("parked", lambda scene: scene.ask(lambda q: protocol.Parked(q, PARKS))),
    "join": Call("join", lambda scene: scene.empty.join()),
    "transaction": Call("transact", lambda scene: scene.transact()),
    "peek": Call("look", lambda scene: scene.queue.peek("5")),
    "state": Call("look", lambda scene: scene.queue.state("5")),
    "discard": Call("discard", lambda scene: scene.queue.discard("5")),
    "cancel": Call("cancel", lambda scene: scene.queue.cancel("5")),
    "cancel what is leased": Call("cancel", lambda s: s.queue.cancel(s.first.key, reason="why")),
    "hold on": Call("hold_on", lambda scene: scene.hold_on()),
    "ack what is cancelled": Call("ack", lambda scene: scene.ack_what_is_cancelled()),
    "available keys": Call("ready", lambda scene: scene.queue.available_keys()),
    "delayed keys": Call("delayed", lambda scene: scene.queue.delayed_keys()),
    "inflight keys": Call("leased", lambda scene: scene.queue.inflight_keys()),
    "qsize": Call("counts", lambda scene: scene.queue.qsize()),
    "inflight": Call("inflight", lambda scene: scene.queue.inflight()),
    "tenants": Call("tenants", lambda scene: scene.queue.statistics(tenants=True)),
    "held": Call("held", lambda scene: scene.ask(lambda q: protocol.Held(q, "0", 1))),
    "abandon": Call("abandon", lambda s: s.ask(lambda q: protocol.Abandon(q, 10**9, (q,)))),
    "info": Call("info", lambda scene: scene.queue.info()),
    "history": Call("history", lambda scene: scene.queue.history()),
    "lease_of": Call("find_lease", lambda scene: scene.queue.lease_of(scene.first.receipt)),
    "queue": Call("declare", lambda scene: scene.broker.queue("more", max_size=9)),
    "dead letters": Call("find", lambda scene: scene.broker.dead_letters("work")),
    "list queues": Call("queues", lambda scene: scene.broker.list_queues()),
    "delete queue": Call("delete", lambda scene: scene.broker.delete_queue("small")),
    "purge": Call("purge", lambda scene: scene.broker.purge("work")),
    "redrive": Call("redrive", lambda scene: scene.queue.redrive()),
    "set tenant": Call("set_tenant", lambda s: s.queue.set_tenant("ada", Tenant(2.0, 3))),
    "pause": Call("pause", lambda scene: scene.queue.pause("ada", reason="why")),
    "resume": Call("resume", lambda scene: scene.queue.resume("ada")),
    "release all": Call("release_all", lambda scene: scene.queue.release_all(consumer="ada")),
    "hello": Call("hello", lambda scene: scene.shake_hands()),
}
"""All there are, with all the operations of the scripts."""


async def outcome(call: Call, scene: Scene) -> object:
    """What came of a call, as far as it is the same each time: what it returned, or its error."""
    try:
        return plain(await call.make(scene))
    except leaseq.LeaseqError as error:
        return type(error).__name__


def plain(result: object) -> object:
    """A result without times, tokens, and what the process has of it."""
    if isinstance(result, list | tuple):
        return [plain(each) for each in result]
    if isinstance(result, Lease):
        return (result.key, result.value, result.deliveries, result.cancellations)
    if isinstance(result, leaseq.LeaseInfo):
        return replace(result, token=0, since=None)
    if isinstance(result, leaseq.Statistics):
        return replace(result, oldest_ready_age=None)
    if isinstance(result, leaseq.HistoryEntry):
        return replace(result, token=0, ended_at=0.0)
    if isinstance(result, leaseq.QueueInfo):
        paused = None if result.paused is None else replace(result.paused, since=0.0)
        tenants = {name: replace(each, since=0.0) for name, each in result.paused_tenants.items()}
        return replace(result, created_at=0.0, paused=paused, paused_tenants=tenants)
    if isinstance(result, leaseq.DeadLetter):
        return replace(result, token=None, died_at=0.0)
    if isinstance(result, RemoteQueue):
        return result.name
    return result


async def picture(broker: ValkeyBroker) -> dict[str, object]:
    """All that is in the queues, seen by another broker, but for times and tokens."""
    seen: dict[str, object] = {}
    for info in await broker.list_queues():
        queue = await broker.queue(info.name)
        sets = (queue.available_keys, queue.delayed_keys, queue.inflight_keys)
        keys = sorted([key for ask in sets for key in await ask()])
        statistics = replace(
            await queue.statistics(tenants=True), oldest_ready_age=None, getters=0, takers=0
        )
        letters = info.dead_letters_of
        values = [plain((await queue._look(key))[1]) for key in keys]
        seen[info.name] = (
            plain(info),
            statistics,
            values if letters else dict(zip(keys, values, strict=True)),
            plain(await queue.inflight()),
            plain(await queue.history()),
            [await value_of(queue, name) for name in ("kept", "new")],
        )
    return seen


async def value_of(queue: Queue, name: str) -> bytes | None:
    """The value that a queue keeps under a name."""
    try:
        return await queue._recall(name, 0)
    except TimeoutError:
        return None
