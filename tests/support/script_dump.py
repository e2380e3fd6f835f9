"""All that is in a queue on the server, and whether it fits together: for tests only."""

from dataclasses import dataclass
from math import inf
from typing import Any

from script_calls import Caller

from leaseq._valkey import scripts

_PARTS = scripts._script("base", "item", "work", "fair", "line", "lease", "moves")
_END = "end)()\nend)()(KEYS, ARGV, true)\n"
assert _PARTS.endswith(_END)
_DUMP = (
    _PARTS.removesuffix(_END)
    + """
return function(keys, arguments)
begin(keys, arguments)
local q = queue_at(1)
local function digits(number)
  return format("%.0f", number)
end
local items = {}
for _, key in ipairs(call("HKEYS", q.items)) do
  if byte(key) ~= 43 then
    local i = read_item(q, key)
    local after = {}
    if i.after ~= 0 then
      local a = moves.look_at_after(q, key, i)
      after = { a.buffered and 1 or 0, a.priority, digits(a.due), digits(a.expires), a.body }
    end
    items[#items + 1] = {
      key, i.state, digits(i.rank), digits(i.since), i.priority, i.deliveries, i.tenant, i.process,
      i.cancellations, i.expiries, digits(i.expires), digits(i.due), digits(i.rest), i.consumer,
      i.body, after, i.state == 0 and member_of(key, i) or "", digits(i.order),
      i.cancelled and 1 or 0,
    }
  end
end
local accounts = {}
for _, tenant in ipairs(call("HKEYS", q.accounts)) do
  if schedule.is_name(tenant) then
    local a = schedule.find(q, tenant)
    accounts[#accounts + 1] = {
      tenant, a.ready, a.in_flight, digits(a.start), a.competing and 1 or 0, a.eligible and 1 or 0,
      a.idle and 1 or 0, a.shares, a.priority, digits(a.rank),
    }
  end
end
local counts = { q.n_ready, q.n_delayed, q.n_leased, q.n_buffered, q.outlived, q.shares }
return {
  digits(now), {}, {}, items, call("ZRANGE", q.ready, 0, -1),
  call("ZRANGE", q.leased, 0, -1, "WITHSCORES"), call("ZRANGE", q.timers, 0, -1, "WITHSCORES"),
  accounts, call("ZRANGE", q.eligible, 0, -1), call("ZRANGE", q.early, 0, -1),
  call("ZRANGE", q.idle, 0, -1), counts, q.fair and 1 or 0, call("HLEN", q.items),
}
end
"""
    + _END
)

BIAS = 3 << 51
STATES = ("ready", "delayed", "leased")


@dataclass
class After:
    buffered: bool
    priority: int
    due: float
    expires: float
    body: bytes


@dataclass
class Kept:
    """An item as it is kept."""

    key: str
    state: str
    rank: int
    since: int
    priority: int
    deliveries: int
    tenant: str | None
    process: bytes
    cancellations: int
    expiries: int
    expires: float
    due: int
    rest: int
    consumer: bytes
    body: bytes
    after: After | None
    order: int
    """Its number among those that fall due."""
    was_cancelled: bool
    deadline: float = inf
    """When something happens to it by itself."""


@dataclass
class Dump:
    """What is in a queue: its items by key, those that are ready in the order of the line."""

    items: dict[str, Kept]
    line: list[str]
    tenants: dict[str | None, tuple[int, int]]
    counts: dict[str, int]
    fair: bool

    def of(self, state: str) -> list[Kept]:
        return [item for item in self.items.values() if item.state == state]


def dump(caller: Caller) -> Dump:
    """Look at everything; fail if two parts of the queue say different things."""
    raw = caller.call(_DUMP).results
    items, line, leased, timers, accounts, eligible, early, idle, counts, fair, fields = raw
    kept: dict[str, Kept] = {}
    members = {}
    for key, state, rank, since, priority, deliveries, tenant, *rest in items:
        process, cancelled, expiries, expires, due, not_before, consumer, body, after = rest[:9]
        member, order, was_cancelled = rest[9:]
        one = Kept(
            _key(key), STATES[state], int(rank), int(since), priority, deliveries,
            _tenant(tenant), process, cancelled, expiries, float(expires), int(due),
            int(not_before), consumer, body, _after(after), int(order),
            bool(was_cancelled),
        )  # fmt: skip
        kept[one.key] = one
        if one.state == "ready":
            members[member] = one.key
    assert sorted(line) == sorted(members)
    assert fields == len(kept) + sum(one.after is not None for one in kept.values())
    deadlines, times = _scores(leased), _scores(timers)
    assert deadlines.keys() == {
        (one.rank, one.key) for one in kept.values() if one.state == "leased"
    }
    expected = {}
    for one in kept.values():
        if one.state == "leased":
            one.deadline = deadlines[one.rank, one.key]
            continue
        one.deadline = one.expires if one.state == "ready" else min(one.due, one.expires)
        if one.deadline < inf:
            assert one.order
            expected[one.order, one.key] = one.deadline
    assert times == expected
    names = ("ready", "delayed", "leased", "buffered", "outlived", "shares")
    numbers = dict(zip(names, counts, strict=True))
    found = Dump(kept, [members[each] for each in line], {}, numbers, bool(fair))
    for state in STATES:
        assert numbers[state] == len(found.of(state))
    buffered = [one for one in kept.values() if one.after is not None and one.after.buffered]
    assert numbers["buffered"] == len(buffered)
    _check_accounts(found, accounts, eligible, early, idle)
    return found


def _check_accounts(found: Dump, accounts: Any, *lines: list[bytes]) -> None:
    places = dict(zip(("eligible", "early", "idle"), map(set, lines), strict=True))
    firsts: dict[str | None, Kept] = {}
    for key in found.line:
        one = found.items[key]
        firsts.setdefault(one.tenant, one)
    expected: dict[str, set[bytes]] = {"eligible": set(), "early": set(), "idle": set()}
    shares = 0
    for tenant, ready, in_flight, _, competing, eligible, idle, share, *place in accounts:
        if ready:
            first = firsts[_tenant(tenant)]
            assert (first.priority, first.rank) == (place[0], int(place[1]))
        found.tenants[_tenant(tenant)] = (ready, in_flight)
        if competing:
            shares += share
            number = (int(place[1]) + BIAS).to_bytes(7, "big")
            if eligible:
                expected["eligible"].add(number + tenant)
            else:
                expected["early"].add(tenant)
            assert ready
        assert idle == (not ready and not in_flight)
        if idle:
            expected["idle"].add(tenant)
    assert places == expected
    assert found.counts["shares"] == shares
    if not found.fair:
        assert not accounts
        return
    items = found.items.values()
    for tenant in {one.tenant for one in items}:
        mine = [one.state for one in items if one.tenant == tenant]
        counts = (mine.count("ready"), mine.count("leased"))
        assert found.tenants.get(tenant, (0, 0)) == counts


def _key(raw: bytes) -> str:
    return raw[1:].decode()


def _tenant(raw: bytes) -> str | None:
    return raw[1:].decode() if raw else None


def _after(raw: list[Any]) -> After | None:
    if not raw:
        return None
    buffered, priority, due, expires, body = raw
    return After(bool(buffered), priority, float(due), float(expires), body)


def _scores(raw: list[bytes]) -> dict[tuple[int, str], float]:
    """Times by number and key."""
    return {
        (int.from_bytes(member[:7], "big"), _key(member[7:])): float(score)
        for member, score in zip(raw[::2], raw[1::2], strict=True)
    }
