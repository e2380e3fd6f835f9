"""The engine on a Valkey or Redis server: queues that processes and machines share."""

try:
    import hiredis as _hiredis  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"leaseq.valkey needs {error.name}, which is not installed: pip install 'leaseq[valkey]'",
        name=error.name,
    ) from error

from .._core.exports import adopt as _adopt
from .._remote.broker import RemoteBroker as RemoteBroker
from .._remote.queue import RemoteQueue
from .._valkey.broker import ValkeyBroker
from .._valkey.url import ValkeyUrl

__all__ = ["RemoteQueue", "ValkeyBroker", "ValkeyUrl"]

_adopt(__name__, globals(), "RemoteBroker")  # the base of every store's broker
