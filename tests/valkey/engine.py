"""The engine under test: brokers of their own, on a server, whose time the tests can move."""

from __future__ import annotations

from tests.remote.clocked import Clocked, dispatcher_of, groups_of

from leaseq._valkey.store import ValkeyStore
from leaseq.valkey import ValkeyBroker, ValkeyUrl

__all__ = ["Valkey", "dispatcher_of", "groups_of", "store_of"]


def store_of(broker: ValkeyBroker) -> ValkeyStore:
    """The store of a broker that is open."""
    store = dispatcher_of(broker)._store
    assert isinstance(store, ValkeyStore)
    return store


class Valkey(Clocked):
    """Makes queues and brokers on a server, each test under a prefix of its own."""

    def __init__(self, url: str, options: str = "") -> None:
        """Of a server, know where it is, and what else the URL is to say."""
        super().__init__()
        self._url = url
        self._options = options

    def make_broker(self, place: str) -> ValkeyBroker:
        return ValkeyBroker(ValkeyUrl.parse(f"{self._url}?prefix={place}{self._options}"))

    def put_forward(self, store: ValkeyStore, seconds: float) -> None:
        store.offset += round(seconds * 1e6)
