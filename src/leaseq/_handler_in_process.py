"""Handlers of `serve` that run in processes: the lease as it goes there, and the call."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, TypeVar

from ._core.codec import Codec, JsonCodec
from ._core.functions import check_has_run_sync
from ._core.process_pool import Processes, check_importable, main_module, place_of
from ._core.texts import shown
from ._core.worker_process import find
from .abc import LeasedQueue
from .abc._lease import Lease

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

_FIELDS = ("token", "deadline", "since", "deliveries", "cancellations", "priority", "tenant")


def as_call(
    queue: LeasedQueue[K, V],
    handler: Callable[[Lease[K, V]], R],
    processes: Processes,
    *,
    keeps_result: bool,
) -> Callable[[Lease[K, V]], Awaitable[Any]]:
    """Return a handler that has a process run the one given.

    Raises:
        TypeError: A process cannot find the handler, or the codec of the queue cannot be pickled.
    """
    check_importable("the handler", handler)
    codec = queue._codec()
    try:
        # The one thing that is pickled: an object of this program, and not what it works on.
        pickled = pickle.dumps(codec)
    except Exception as error:
        raise TypeError(
            f'run_in="process" needs a codec that can be pickled, not {shown(codec)}: {error}'
        ) from None
    place = place_of(handler)
    document: dict[str, Any] = {
        "function": place,
        "codec": base64.b64encode(pickled).decode(),
        "queue": queue.name,
        "keeps_result": keeps_result,
    }
    if place[0] == "__main__" or b"__main__" in pickled:
        document["main"] = main_module()

    async def call(lease: Lease[K, V]) -> Any:
        fields = {name: getattr(lease, name) for name in _FIELDS}
        there = {**document, "key": _write_key(lease.key), "lease": fields}
        answer, rest = await processes.call(
            "leaseq._handler_in_process:handle", there, codec.encode(lease.value)
        )
        return JsonCodec[Any]().decode(rest) if answer["result"] else None

    return call


def handle(document: dict[str, Any], body: bytes) -> tuple[bool, bytes]:
    """Call a handler, in a process: `Processes.call` runs this there."""
    main = document.get("main")
    handler = find(document["function"], main)
    codec = _codec(document["codec"])
    lease: Lease[Any, Any] = Lease(
        _Elsewhere(document["queue"]),  # type: ignore[arg-type]
        _read_key(document["key"]),
        codec.decode(body),
    )
    for name, value in document["lease"].items():
        setattr(lease, f"_{name}", value)
    result = handler(lease)
    check_has_run_sync(result)
    if result is None or not document["keeps_result"]:
        return False, b""
    return True, JsonCodec[Any](strict=False).encode(result)


@cache
def _codec(pickled: str) -> Codec[Any]:
    codec: Codec[Any] = pickle.loads(base64.b64decode(pickled))
    return codec


class _Elsewhere:
    """The queue of a lease in another process: it has a name, and cannot be called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(
            f"{name}: a handler in a process has a lease that can only be read: return to have the "
            "item acknowledged, raise Reject to give it up, raise another error to have it tried "
            "again"
        )


def _write_key(key: object) -> list[Any]:
    if type(key) is str or type(key) is int:
        return [key]
    if type(key) is bytes:
        return [base64.b64encode(key).decode(), 0]
    raise TypeError(
        f'run_in="process" takes keys of the types str, int and bytes, and not {shown(key)}'
    )


def _read_key(written: list[Any]) -> str | int | bytes:
    if len(written) == 2:
        return base64.b64decode(written[0])
    key: str | int = written[0]
    return key
