"""Tables by key: keys are the users' own, may change, and may raise when looked up. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .item import Item

K = TypeVar("K")
V = TypeVar("V")
N = TypeVar("N")
T = TypeVar("T")


def insert(items: dict[K, Item[K, V]], item: Item[K, V]) -> Any:
    """Add an item under its key, and return what it is under. O(1).

    A key that has changed since it was put may be equal to another one by now, or not be hashable:
    then the item is under an object of its own, for `expel` and those that look at all items.
    """
    key: Any = item._key
    try:
        if items.setdefault(key, item) is item:
            return key
    except Exception:
        pass
    key = object()
    items[key] = item
    return key


def expel(items: dict[K, Item[K, V]], item: Item[K, V]) -> None:
    """Take out an item that is there. O(1); O(items) if its key has changed since it was put."""
    try:
        if items.get(item._key) is item:
            del items[item._key]
            return
    except Exception:
        pass
    others = [other for other in in_order(items) if other is not item]
    items.clear()
    for other in others:
        insert(items, other)


def in_order(items: dict[K, Item[K, V]]) -> list[Item[K, V]]:
    """Return items in their order, whatever has become of their keys. O(items).

    An `OrderedDict` looks each of its keys up on the way: at one that has changed it stops, and at
    one that is equal to another by now it goes round in a circle. `dict.values` looks none up, but
    does not know of those that have gone to the front: these have been handed out before, and have
    ranks.
    """
    return sorted(dict.values(items), key=lambda item: min(item._token, 0))


def first_of(items: dict[K, Item[K, V]]) -> Iterator[Item[K, V]]:
    """Iterate over items from the first on, as far as their keys can be looked up. O(1) each."""
    try:
        yield from islice(items.values(), len(items))
    except Exception:
        return


def hashable_keys(items: dict[K, Item[K, V]]) -> set[K]:
    """Return the keys that are hashable still. O(items)."""
    keys = [item._key for item in dict.values(items)]
    try:
        return set(keys)
    except Exception:
        return {key for key in keys if can_be_found(key, hash)}


def has(items: dict[K, Item[K, V]], item: Item[K, V]) -> bool:
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
