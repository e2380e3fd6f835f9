"""Tables by key: keys are the users' own, may change, and may raise when looked up. Sans-IO.

A table has items under their keys. Of waiting items most are *bare*: their value alone is there,
under a *plain* key. A plain key hashes and compares as it always did; but its look-up may come
across another key that does not any more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")
N = TypeVar("N")
T = TypeVar("T")

PLAIN = frozenset({str, int, bytes})
"""Types of keys that never change and never raise."""


def insert(items: dict[K, Any], item: Item[K, V]) -> Any:
    """Add an item under its key, and return what it is under. O(1).

    A key that has changed since it was put may be equal to another one by now, or not be hashable:
    then the item is under an object of its own, for `expel` and those that look at all items. A
    plain key has not changed: then it is the other one that makes way, in O(items).
    """
    key: Any = item._key
    try:
        if items.setdefault(key, item) is item:
            return key
    except Exception:
        pass
    if type(key) in PLAIN:
        rebuild(items, [*dict.items(items), (key, item)], type(item))
        return key
    key = object()
    items[key] = item
    return key


def insert_bare(items: dict[K, Any], key: K, value: object) -> bool:
    """Add a bare item under its plain key; False: another key is in the way. O(1)."""
    try:
        return items.setdefault(key, value) is value
    except Exception:
        return False


def expel(items: dict[K, Any], item: Item[K, V]) -> None:
    """Take out an item that is there. O(1); O(items) if its key has changed since it was put."""
    try:
        if items.get(item._key) is item:
            del items[item._key]
            return
    except Exception:
        pass
    rebuild(items, [pair for pair in dict.items(items) if pair[1] is not item], type(item))


def rebuild(items: dict[K, Any], left: list[tuple[K, Any]], full: type[Item[K, V]]) -> None:
    """Fill a table anew with these, whatever has become of their keys. O(items).

    Plain keys come first, so that none of the others is in their way.
    """
    odd = [found for _, found in left if type(found) is full and type(found._key) not in PLAIN]
    items.clear()
    items.update(pair for pair in left if type(pair[1]) is not full)
    items.update(
        (found._key, found)
        for _, found in left
        if type(found) is full and type(found._key) in PLAIN
    )
    for item in odd:
        insert(items, item)


def find(items: dict[K, Any], key: K, full: type[Item[K, V]]) -> Any:
    """Return the item of a plain key that is there, bare or not. O(1).

    O(items) if another key, that has changed since it was put, is in the way.
    """
    try:
        found = items[key]
        if type(found) is not full or type(found._key) is type(key):
            return found
    except Exception:
        pass
    return next(found for other, found in dict.items(items) if _is(key, other, found, full))


def _is(key: K, other: K, found: Any, full: type[Item[K, V]]) -> bool:
    """Return True if an entry of a table is that of a plain key."""
    own = found._key if type(found) is full else other
    return type(own) is type(key) and own == key


def fill(items: dict[K, Any], item: Item[K, V]) -> None:
    """Put an item in the place of its bare value, which is there. As `find`."""
    key, full = item._key, type(item)
    try:
        if type(items[key]) is not full:
            items[key] = item
            return
    except Exception:
        pass
    rebuild(items, [pair for pair in dict.items(items) if not _is(key, *pair, full)], full)
    insert(items, item)


class _Probe:
    """A key that is equal to what another one is equal to, and keeps what it was found to be."""

    __slots__ = ("_hash", "_key", "found")

    def __init__(self, key: object) -> None:
        self._key = key
        self._hash = hash(key)
        self.found: Any = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        is_it = type(other) in PLAIN and bool(other == self._key)
        if is_it:
            self.found = other
        return is_it


def plain_key(items: dict[K, Any], key: K) -> K:
    """Return the plain key of a bare item that this key is equal to. O(1).

    O(items) if another key, that has changed since it was put, is in the way.
    """
    if type(key) in PLAIN:
        return key
    probe: Any = _Probe(key)
    with suppress(Exception):
        items.get(probe)
    if probe.found is not None:
        found: K = probe.found
        return found
    for other in dict.keys(items):  # to be equal takes an equal hash too, as in a table
        if type(other) in PLAIN and hash(other) == hash(probe) and other == key:
            return other
    raise KeyError(key)  # which its hash and its comparison do not agree about


def in_order(items: Iterable[Item[K, V]]) -> list[Item[K, V]]:
    """Return items of a table in their order, those that have gone to the front first. O(items)."""
    return sorted(items, key=lambda item: min(item._token, 0))


def first_of(items: dict[K, Item[K, V]]) -> Iterator[Item[K, V]]:
    """Iterate over items from the first on, as far as their keys can be looked up. O(1) each."""
    try:
        yield from islice(items.values(), len(items))
    except Exception:
        return


def hashable(keys: list[K]) -> set[K]:
    """Return the keys that are hashable still. O(keys)."""
    try:
        return set(keys)
    except Exception:
        return {key for key in keys if can_be_found(key, hash)}


def by_time(times: Iterable[tuple[K, float]]) -> OrderedDict[K, float]:
    """Return keys with their times, the earliest first; none that cannot be added. O(n log n)."""
    left: OrderedDict[K, float] = OrderedDict()
    for key, time in sorted(times, key=itemgetter(1)):
        with suppress(Exception):
            left[key] = time
    return left


def has(items: dict[K, Any], item: Item[K, V]) -> bool:
    """Return True if an item is under its key. O(1)."""
    try:
        return items.get(item._key) is item
    except Exception:
        return False


def can_be_found(key: K, look: Callable[[K], object]) -> bool:
    """Return True if a key can be looked up: neither its hash nor a comparison raises."""
    try:
        look(key)
    except Exception:
        return False
    return True


def leave(
    lines: dict[N, OrderedDict[T, None]], name: N, thing: T, *, rename: Callable[[], N]
) -> None:
    """Take a thing out of the line of this name, and drop the line if it is empty then. O(1).

    If a key in the name has changed since, the thing leaves every line that it stands in, and lines
    that cannot be found any more get another name: O(lines).
    """
    try:
        line = lines[name]
        del line[thing]
        if not line:
            del lines[name]
        return
    except Exception:
        pass
    left = list(lines.items())
    lines.clear()
    for name, line in left:
        line.pop(thing, None)
        if not line:
            continue
        try:
            known = lines.setdefault(name, line) is line
        except Exception:
            known = False
        if not known:
            lines[rename()] = line
