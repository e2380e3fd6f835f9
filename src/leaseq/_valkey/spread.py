"""The spread of queues over groups, and of the groups over the slots of a cluster. Sans-IO."""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from itertools import count
from math import gcd
from typing import Final

SLOTS: Final = 1 << 14
"""Slots of a cluster."""

_PRIME: Final = 2**61 - 1
_FACTOR: Final = 0x1F3D5B79A1C3E5F7 % _PRIME
_GOLDEN: Final = 0.618
_DIGITS: Final = re.compile(r"[0-9]+")


def slot_of(tag: str) -> int:
    """Return the slot of the keys that have this between their braces. O(its length)."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def group_tag(prefix: str, group: str) -> str:
    """Return the text between the braces of a group's keys, which decides on their slot.

    No prefix has a slash, so a pattern with one after the prefix is for this broker's groups alone.
    """
    return f"{prefix}/{group}"


def spread(prefix: str, name: str, groups: int) -> str:
    """Return the group of a queue: one of `groups`, by the queue's name.

    Names that differ only by a number, or in their last character, get groups that follow each
    other. O(length of the name).
    """
    hashed = 0
    for byte in _DIGITS.sub("", name).encode():
        hashed = (hashed * _FACTOR + byte) % _PRIME
    number = int("0" + "".join(_DIGITS.findall(name)))
    return _group(prefix, (hashed + number) % groups, groups)


@lru_cache(4096)
def _group(prefix: str, number: int, groups: int) -> str:
    """Return the name of the group with this number.

    The slots are cut into as many equal parts as there are groups, and the slot of each group is
    near the middle of its part: so a node of a cluster, which has a range of slots, has its share
    of groups. Groups that follow each other are far apart, by the golden ratio. O(groups) at first.
    """
    step = max(1, round(groups * _GOLDEN))
    while gcd(step, groups) > 1:
        step += 1
    part = number * step % groups
    first, last = ((part + share) * SLOTS / groups for share in (0.25, 0.75))
    names = (f"{number}-of-{groups}-{salt}" for salt in count())
    return next(name for name in names if first <= slot_of(group_tag(prefix, name)) < last)
