"""The scripts do what the vectors say."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

import pytest
from script_calls import FrozenCaller, claim, declare, name, put, request
from script_dump import Kept, dump
from tests.vectors.driver import seen
from tests.vectors.run import check_move, check_plan, move_names, plan_names

from leaseq import PutOutcome
from leaseq._rules.moves import ItemRecord, Successor

SECOND = 1_000_000
BEGIN = 1_000 * SECOND
LETTERS = {"dead": 2, "dropped": 0, "kept": 3}
OUTCOMES = {outcome.value[0].encode(): str(outcome) for outcome in PutOutcome}
COUNTERS = (
    "delivered", "acked", "released", "expired", "given_back", "dead", "dropped", "superseded",
    "cancelled",
)  # fmt: skip


class ScriptDriver:
    """The scripts on a server, driven through the vectors."""

    def __init__(self, caller: FrozenCaller) -> None:
        self.caller = caller

    def open(self, queue: Mapping[str, Any]) -> None:
        self.caller.client.flushdb()
        self.caller.offset = BEGIN
        self.tokens: dict[str, bytes] = {}
        self.letters_index = LETTERS[queue.get("fate", "dead")]
        base, factor, ceiling = queue.get("backoff") or (-1, 0, 0)
        backoff = (base * SECOND if base > 0 else base, factor, ceiling * SECOND)
        tenants = queue.get("tenants", {}).items()
        dedupes = queue.get("dedupe_for")
        self.caller.call(
            "manage",
            declare(
                1,
                "q",
                letters="d",
                max_deliveries=queue.get("max_deliveries") or -1,
                backoff=backoff,
                dedupe_for=dedupes * SECOND if dedupes else -1,
                tenants={each: (weight, cap or -1) for each, (weight, cap) in tenants},
            ),
            declare(2, "d"),
        )

    def one(self, *operation: Any, script: str = "turn") -> Any:
        result = self.caller.one(*operation, script=script, letters=self.letters_index)
        assert result[0] in (b"ok", b"dropped", b"error", b"cancelled"), result
        return result

    def put(self, key: str, value: int, **terms: Any) -> str:
        for time in ("delay", "ttl"):
            if time in terms:
                terms[time] *= SECOND
        result = self.one(*put(1, (key, value), **terms))
        return result[1].decode() if result[0] == b"error" else OUTCOMES[result[1]]

    def claim(self, *, key: Any = None, tenants: Any = None, lease: int | None = None) -> Any:
        kind = "any" if key is None else "key"
        asked = request(
            "tenants" if tenants else kind,
            key or "",
            tenants or (),
            lease=-1 if lease is None else lease * SECOND,
            consumer="c",
        )
        (leases,) = self.one(*claim(1, asked))[3:]
        if not leases:
            return None
        found: str = leases[0][0][1:].decode()
        self.tokens[found] = leases[0][2]
        return found

    def end(
        self,
        how: str,
        key: str,
        *,
        front: bool = False,
        delay: int | None = None,
        counted: bool = True,
        reason: str = "",
    ) -> None:
        rest = -1 if delay is None else delay * SECOND
        release = [int(front), rest, int(counted), ""]
        reject = [reason, "", 0, 0]
        words = {"release": release, "fail": release, "reject": reject, "ack": [0]}
        verb = "release" if how == "fail" else how
        was_cancelled = dump(self.caller).items[key].was_cancelled
        result = self.one(verb, 1, f"s{key}", self.tokens[key], *words.get(how, []))
        assert (result[0] == b"cancelled") is was_cancelled

    def extend(self, key: str, seconds: int) -> None:
        self.one("extend", 1, f"s{key}", self.tokens[key], seconds * SECOND)

    def set_tenant(self, tenant: str | None, weight: float, cap: int | None) -> None:
        self.one("set_tenant", 1, name(tenant), weight, cap or -1, script="manage")

    def pause(self, tenant: str | None) -> None:
        self.one("pause", 1, name(tenant), "", script="manage")

    def resume(self, tenant: str | None) -> None:
        self.one("resume", 1, name(tenant), script="manage")

    def wait(self, seconds: int) -> None:
        self.caller.offset += seconds * SECOND
        self.one("sweep", 1, 1000)

    def release_all(self) -> None:
        self.one("release_all", 1, "c", "", script="manage")

    def close(self) -> None:
        held = dump(self.caller).of("leased")
        pairs = [part for one in held for part in (f"s{one.key}", one.rank)]
        self.one("close", 1, len(held), *pairs)

    def drain(self) -> None:
        self.one("purge", 1, script="manage")

    def discard(self, key: str) -> bool:
        return bool(self.one("discard", 1, f"s{key}")[1])

    def cancel(self, key: str, *, keep_successor: bool = False) -> bool:
        return bool(self.one("cancel", 1, f"s{key}", "", int(keep_successor), 0)[1])

    def see(self, key: str) -> dict[str, Any] | None:
        item = dump(self.caller).items.get(key)
        return None if item is None else seen(_record(item), _seconds(self.caller.offset))

    def line(self) -> list[str]:
        return dump(self.caller).line

    def letters(self) -> list[list[Any]]:
        found = []
        for key in self.caller.look("ready", 2, "")[2:]:
            letter = self.caller.look("look", 2, key, 1)[2]
            found.append([letter[1][1:].decode(), int(letter[2]), letter[5].decode()])
        return found

    def counts(self) -> dict[str, int]:
        counts = dict(zip(COUNTERS, self.caller.look("counts", 1)[6:], strict=False))
        return {name: count for name, count in sorted(counts.items()) if count}


def _seconds(time: float) -> float:
    return (time - BEGIN) / SECOND


def _record(item: Kept) -> ItemRecord[int]:
    after = item.after
    return ItemRecord(
        item.state,  # type: ignore[arg-type]
        int(item.body),
        item.priority,
        item.tenant,
        item.deliveries,
        item.cancellations,
        item.expiries,
        _seconds(item.due),
        _seconds(item.rest) if item.rest else -inf,
        _seconds(item.expires),
        after
        and Successor(
            int(after.body),
            after.priority,
            after.buffered,
            _seconds(after.due),
            _seconds(after.expires) if after.expires else inf,
        ),
        item.was_cancelled,
    )


@pytest.fixture
def driver(address: tuple[str, int]) -> Iterator[ScriptDriver]:
    caller = FrozenCaller(address)
    yield ScriptDriver(caller)
    caller.client.close()


def test_the_scripts_move_an_item_as_the_vectors_say(driver: ScriptDriver) -> None:
    assert move_names()
    for case in move_names():
        try:
            check_move(driver, case)
        except AssertionError as error:
            raise AssertionError(case) from error


@pytest.mark.parametrize("plan", plan_names())
def test_the_scripts_hand_out_in_the_order_of_the_vectors(driver: ScriptDriver, plan: str) -> None:
    check_plan(driver, plan)
