"""Whose turn it is, by the vectors that every engine is held to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.helpers import Queue, Start
from tests.vectors.write import FOLDER

from leaseq import Lease, Tenant

pytestmark = pytest.mark.anyio

PLANS = {
    plan["name"]: plan
    for plan in json.loads((FOLDER / "turns.json").read_text(encoding="utf-8"))
    if not {"undo", "give_back"} & {step[0] for step in plan["steps"]}  # not to be had by a call
}


async def claim(
    queue: Queue, *, key: str | None = None, **options: Any
) -> Lease[str, object] | None:
    try:
        if key is not None:
            return (await queue.take(key, timeout=0))[2]
        return (await queue.get(timeout=0, **options))[2]
    except TimeoutError:
        return None


async def take_step(queue: Queue, held: dict[str, Lease[str, object]], step: list[Any]) -> None:
    verb, *arguments = step
    options = arguments.pop() if isinstance(arguments[-1], dict) else {}
    if verb == "put":
        await queue.put(*arguments, **options)
    elif verb == "set_tenant":
        name, weight, cap = arguments
        await queue.set_tenant(name, Tenant(weight, max_in_flight=cap))
    elif verb in ("pause", "resume"):
        await getattr(queue, verb)(arguments[0])
    elif verb == "ack":
        await queue.ack(held.pop(arguments[0]))
    else:
        assert verb == "release"
        front = options.get("front", False)
        await queue.release(held.pop(arguments[0]), requeue_front=front)


@pytest.mark.parametrize("name", PLANS)
async def test_turns_are_taken_as_the_vectors_say(start: Start, name: str) -> None:
    plan = PLANS[name]
    tenants = {
        tenant: Tenant(weight, max_in_flight=cap)
        for tenant, (weight, cap) in plan["queue"].get("tenants", {}).items()
    }
    queue = await start(tenants=tenants or None)
    held: dict[str, Lease[str, object]] = {}
    given = []
    for step in plan["steps"]:
        if step[0] == "claim":
            lease = await claim(queue, **(step[1] if len(step) > 1 else {}))
            given.append(None if lease is None else lease.key)
            if lease is not None:
                held[lease.key] = lease
        else:
            await take_step(queue, held, step)
    assert given == plan["claims"]
