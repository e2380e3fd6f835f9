"""Queues by name, on a Valkey or Redis server."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Self, Unpack
from weakref import WeakValueDictionary

from anyio import TASK_STATUS_IGNORED, BusyResourceError, CancelScope, Lock, move_on_after
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint_if_cancelled

from .._core.codec import Codec, JsonCodec
from .._core.errors import LeaseqError, QueueClosedError, ServerError, UnusableServerError
from .._core.loop import Home
from .._core.options import BrokerQueueOptions
from .._core.queue_options import (
    check_broker_options,
    check_handle,
    check_name,
    check_same,
    codec_for,
    options_of_queue,
)
from .._core.reports import DeadLetter, QueueInfo
from .._valkey.encoding import declare_words, read_options
from .._valkey.keys import decode_key, decode_name
from .._valkey.opening import open_client
from .._valkey.permissions import Rights
from .._valkey.replication import ReplicatedClient
from .._valkey.scripts import channel
from .._valkey.url import ValkeyUrl
from ..abc import Broker
from .dispatcher import Courier
from .engine import Core, raised
from .housekeeping import Upkeep
from .inspecting import read_info
from .queue import ValkeyQueue
from .requests import Answer, Ask, Site
from .transaction import ValkeyTransaction

__all__ = ["ValkeyBroker"]

logger = logging.getLogger("leaseq")

_CLOSING = 2.0  # seconds for which handles that are closed try to give their leases back
_UNDECODABLE = b"undecodable"


class ValkeyBroker(Broker):
    """A broker whose queues live on a server: ``connect("valkey://host:6379/0")``.

    Args:
        url: Where the server is.
        patience: Seconds for which a call tries to reach the server where no `run` runs.
    """

    def __init__(self, url: ValkeyUrl, *, patience: float = 10.0) -> None:
        self._url = url
        self._prefix = url.prefix
        self._patience = patience
        self._process = uuid.uuid4().hex
        self._queues: dict[str, ValkeyQueue[Any, Any]] = {}
        self._sites: WeakValueDictionary[str, Site] = WeakValueDictionary()
        self._courier: Courier | None = None
        self._introducing: Courier | None = None  # what is there, but of no use to others yet
        self._opening: Lock | None = None
        self._runs = False
        self._closed = False
        self.home = Home()
        self.upkeep = Upkeep(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<ValkeyBroker {self._url} {state}: {len(self._queues)} queues here>"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> Courier:
        """Connect, unless that was done."""
        if self._closed:
            raise QueueClosedError(f"{self!r}")
        self.home.check()
        if self._courier is not None:
            return self._courier
        if self._opening is None:
            self._opening = Lock()
        async with self._opening:
            if self._courier is None:
                name = channel(self._prefix, self._process)
                client = await open_client(self._url, channel=name, on_message=self._hear)
                if self._url.wait_replicas:
                    client = ReplicatedClient(
                        client, self._url.wait_replicas, self._url.request_timeout
                    )
                courier = Courier(
                    self._prefix,
                    "!" * client.is_cluster + self._process,  # who listens on the shard
                    client,
                    self.home,
                    self.upkeep,
                    patience=self._patience,
                )
                self._introducing = courier
                try:
                    await self._introduce(courier, is_cluster=client.is_cluster)
                    if self._closed:
                        raise QueueClosedError(f"{self!r}")
                except BaseException as error:
                    await courier.close()
                    if self._closed and isinstance(error, LeaseqError):
                        raise QueueClosedError(f"{self!r}") from None
                    raise
                finally:
                    self._introducing = None
                self._courier = courier
            return self._courier

    async def _introduce(self, courier: Courier, *, is_cluster: bool) -> None:
        """Tell the server who comes, and be told what its user may do."""
        commands = Rights.asked_for(is_cluster=is_cluster, waits=self._url.wait_replicas > 0)
        where = self._url.address
        try:
            answer = await courier.ask(Ask("hello", "hello", str(len(commands)), *commands))
        except ServerError as error:
            raise UnusableServerError(
                f"{where} refuses what leaseq must ask at first: {error}"
            ) from None
        if answer[0] == b"raised":
            raise raised(answer)
        courier.rights = Rights(command.decode() for command in answer[1:])
        if courier.rights.missing:
            raise UnusableServerError(
                f"{where} does not let this user do what everybody must: its ACL lacks "
                f"{courier.rights.missing}"
            )

    @property
    def courier(self) -> Courier:
        """The way to the server. There is one as soon as there is a queue."""
        if self._courier is None:
            raise RuntimeError(f"{self!r} is not connected: enter it, or make a queue")
        return self._courier

    async def _ask(self, ask: Ask) -> Answer:
        await checkpoint_if_cancelled()  # or a loop of these could not be cancelled
        answer = await self.courier.ask(ask)
        if answer[0] == b"raised":
            raise raised(answer)
        return answer

    # Queues

    async def queue(
        self, name: str, *, make: bool = True, **options: Unpack[BrokerQueueOptions]
    ) -> ValkeyQueue[Any, Any]:
        await self._open()
        check_name(name)
        options = check_broker_options(options)
        there = self._queues.get(name)
        if there is None or there.closed:
            codec = codec_for(options)
            letters, made_with = await (self._declare if make else self._existing)(name, options)
            check_same(name, made_with, options)
            site = self.site(name)
            site.letters = self.site(letters) if letters else None
            if letters and make:
                await self.queue(letters)
            return self._handle(site, codec, made_with, options)
        check_same(name, there.made_with, options)
        check_handle(name, there.handled_with, options)
        return there

    async def _declare(
        self, name: str, options: BrokerQueueOptions
    ) -> tuple[str, BrokerQueueOptions]:
        """Make a queue, unless it is there; its queue of dead letters, and its options."""
        options = options_of_queue(options)
        letters_name = options.get("dead_letters")
        if letters_name is not None:
            if letters_name == name:
                raise ValueError(f"queue {name!r} cannot be its own queue of dead letters")
            check_name(letters_name)
        words = declare_words(name, options)
        answer = await self._ask(Ask("manage", "declare", self.site(name), *words))
        return answer[3].decode(), read_options(answer[2])

    async def _find(self, name: str) -> tuple[str, BrokerQueueOptions] | None:
        """The same of a queue that is there; None: it is not."""
        await self._open()
        answer = await self._ask(Ask("look", "find", name))
        return (answer[1].decode(), read_options(answer[2])) if answer[0] == b"ok" else None

    async def _existing(self, name: str, _: object = None) -> tuple[str, BrokerQueueOptions]:
        """The same of a queue that must be there."""
        found = await self._find(name)
        if found is None:
            raise LookupError(f"there is no queue {name!r}: broker.queue() makes one")
        return found

    def _handle(
        self,
        site: Site,
        codec: Codec[Any],
        made_with: BrokerQueueOptions,
        handled_with: BrokerQueueOptions,
    ) -> ValkeyQueue[Any, Any]:
        there = self._queues.get(site.name)
        if there is not None and not there.closed:  # another task was faster
            return there
        queue = ValkeyQueue[Any, Any](self, site, codec, made_with, handled_with)
        self._queues[site.name] = queue
        return queue

    async def create_queue_pair(
        self, name: str, **options: Unpack[BrokerQueueOptions]
    ) -> tuple[ValkeyQueue[Any, Any], ValkeyQueue[str, DeadLetter[Any, Any]]]:
        if "dead_letters" in options and options["dead_letters"] is None:
            raise ValueError("a pair has a queue of dead letters: leave dead_letters=None out")
        await self._open()
        check_name(name)
        found = await self._find(name)
        if found is None or not found[0]:
            options = {"dead_letters": f"{name}.dead", **options}
        queue = await self.queue(name, **options)
        return queue, await self.dead_letters(name)

    async def _stored(self) -> dict[str, str]:
        """The names of all queues on the server, and of their queues of dead letters or ""."""
        stored: dict[str, str] = {}

        def receive(answer: Answer) -> None:
            if answer[0] != b"ok":
                return
            names = [word.decode() for word in answer[1:]]
            stored.update(zip(names[::2], names[1::2], strict=True))
            for name in self._queues.keys() - stored.keys():
                self._drop(name)  # others have deleted it

        await self._ask(Ask("look", "queues", receive=receive))
        return stored

    def site(self, name: str, letters: str = "") -> Site:
        """Where a queue is, and its dead letters, unless these are known here already."""
        site = self._sites.get(name)
        if site is None:
            site = self._sites[name] = Site(self._prefix, name)
        if letters and site.letters is None:
            site.letters = self.site(letters)
        return site

    async def dead_letters(self, name: str) -> ValkeyQueue[str, DeadLetter[Any, Any]]:
        letters, _ = await self._existing(name)
        if not letters:
            raise LookupError(f"queue {name!r} has no queue of dead letters")
        return await self.queue(letters)

    async def list_queues(self) -> list[QueueInfo]:
        courier = await self._open()
        stored = await self._stored()
        asks = [Ask("look", "info", self.site(*each), "0") for each in stored.items()]
        for ask in asks:
            courier.post(ask)
        answers = [await courier.answer(ask) for ask in asks]
        for name, answer in zip(stored, answers, strict=True):
            if answer[0] == b"raised":
                error = raised(answer)
                raise ServerError(f"{error}, for queue {name!r}", code=error.code)
        senders: dict[str, list[str]] = {}
        for name, letters in stored.items():
            senders.setdefault(letters, []).append(name)
        return [
            read_info(name, answer, senders.get(name, ()))
            for name, answer in zip(stored, answers, strict=True)
            if answer[0] == b"ok"  # or it was deleted meanwhile
        ]

    async def delete_queue(self, name: str, *, dead_letters: bool = True) -> None:
        letters, _ = await self._existing(name)
        stored = await self._stored()
        users = [other for other, letters in stored.items() if letters == name]
        if users:
            raise ValueError(
                f"queue {name!r} has the dead letters of {', '.join(map(repr, users))}: "
                "delete these first"
            )
        await self._delete(name)
        stored.pop(name, None)
        if dead_letters and letters and letters not in stored.values():
            await self._delete(letters)

    async def _delete(self, name: str) -> None:
        await self._ask(Ask("manage", "delete", self.site(name)))
        self._drop(name)

    def _drop(self, name: str) -> None:
        """There is no such queue any more."""
        self._sites.pop(name, None)
        queue = self._queues.pop(name, None)
        if queue is not None:
            queue.vanish()

    async def purge(self, name: str) -> int:
        letters, _ = await self._existing(name)
        answer = await self._ask(Ask("manage", "purge", self.site(name, letters)))
        if answer[0] != b"ok":
            raise LookupError(f"there is no queue {name!r}: it was deleted just now")
        return int(answer[1])

    async def process_expired(self) -> int:
        await self._open()
        stored = await self._stored()
        outlived = 0
        for name, letters in stored.items():
            more = True
            while more:
                answer = await self._ask(Ask("turn", "sweep", self.site(name, letters), "64"))
                if answer[0] != b"ok":
                    break
                _, _, more, count = answer
                outlived += count
        return outlived

    def transaction(self) -> ValkeyTransaction:
        return ValkeyTransaction(self)

    # The end

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asks = [queue.begin_to_close() for queue in self._queues.values() if not queue.closed]
        courier = self._courier or self._introducing
        if courier is None:
            return
        with CancelScope(shield=True):
            courier.hurry()
            try:
                await self.wait_for_close(asks)
            finally:  # `asyncio.Task.cancel` knows no shield
                await courier.close()

    async def wait_for_close(self, asks: Iterable[Ask]) -> None:
        """Give the server a moment to take the leases of closed handles back."""
        with move_on_after(_CLOSING), suppress(LeaseqError):
            for ask in asks:
                await self.courier.answer(ask, patience=_CLOSING)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        if self._runs:
            raise BusyResourceError("letting time pass for")
        self._runs = True
        try:
            await self.drive(lambda: self._closed, task_status)
        finally:
            self._runs = False

    async def drive(self, over: Callable[[], bool], task_status: TaskStatus[None]) -> None:
        """Let time pass until it is over. For `run`, a queue's and the broker's own."""
        if over():
            task_status.started()
            return
        courier = await self._open()
        await courier.run(over, task_status)

    # For the queues

    def keeps(self, queue: Core[Any, Any]) -> bool:
        """Whether some `run` lets time pass for a queue: the broker's, or one that drives it."""
        if self._runs or queue.runs:
            return True
        return any(
            other.site.letters is queue.site and self.keeps(other)
            for other in self._queues.values()
        )

    def forget(self, queue: Core[Any, Any]) -> None:
        """A queue was deleted: its name is free for another one."""
        if self._queues.get(queue.name) is queue:
            del self._queues[queue.name]
            self._sites.pop(queue.name, None)

    def queue_here(self, name: str) -> ValkeyQueue[Any, Any] | None:
        """The handle of that name here, closed or not; None: there is none."""
        return self._queues.get(name)

    def owns(self, queue: ValkeyQueue[Any, Any]) -> bool:
        """Whether a queue is one of this broker's."""
        return self._queues.get(queue.name) is queue

    def read_letter(self, fields: Answer) -> DeadLetter[Any, Any]:
        """A dead letter, as the server has it."""
        name, wire_key, body, letter, token, reason, error, *rest = fields
        deliveries, tenant, priority, died_at = rest
        queue = name.decode()
        return DeadLetter(
            queue=queue,
            key=decode_key(wire_key),
            value=self._read_body(queue, body, letter=letter, reason=reason),
            token=int(token) if token else None,
            reason=reason.decode(),
            error=error.decode() or None,
            deliveries=int(deliveries),
            tenant=decode_name(tenant),
            priority=int(priority),
            died_at=int(died_at) / 1e6,
        )

    def _read_body(self, queue: str, body: Any, *, letter: int, reason: bytes) -> Any:
        """What died; its bytes as they are, if they cannot be read."""
        if letter:
            return self.read_letter(body)
        there = self._queues.get(queue)
        codec: Codec[Any] = JsonCodec() if there is None else there.codec
        try:
            return codec.decode(body)
        except Exception:
            if reason != _UNDECODABLE:
                logger.warning("a dead letter of queue %r cannot be read here", queue)
            return body

    def _hear(self, message: bytes) -> None:
        if self._courier is not None:  # before that, nobody waits for anything
            self._courier.hear(message)
