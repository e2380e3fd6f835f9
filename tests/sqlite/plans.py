"""Long plans in a file and in memory: ``python -m tests.sqlite.plans --seeds 300 --steps 500``.

Each is drawn from a seed, run on both engines, and both must tell the same story, outcomes, order,
statistics and errors: as `tests.test_engines_agree` does with short ones.

Time is moved by halves of a unit. An item to which two things happen in one of these, a lease that
expires and then a delay that is over, is dealt with at each of the two times in memory, and at the
next look in a store: so a plan has either delays or times to live, and no successor has either.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from typing import Any

from tests.contract.engines import Memory
from tests.sqlite.engine import Sqlite
from tests.test_engines_agree import KEYS, MAX_SIZE, UNIT, Plan, Step, run

from leaseq import Retry, Tenant
from leaseq.testing import virtual_backend

__all__ = ["agrees", "plan_of"]


def plan_of(seed: int, steps: int) -> Plan:
    """The plan of a seed."""
    chance = random.Random(seed)

    def units() -> float:
        return chance.randint(1, 3) * UNIT

    def some(**options: Any) -> dict[str, Any]:
        return {name: make() for name, make in options.items() if chance.random() < 0.3}

    def tenant() -> str | None:
        return chance.choice(["x", "y", None])

    times = chance.choice(["delay", "ttl"])
    policies = ["update", "reject", "buffer"][: 3 if times == "delay" else 2]

    def terms() -> dict[str, Any]:
        found = some(
            priority=lambda: chance.choice([-1, 0, 5]),
            tenant=tenant,
            time=units,
            if_in_flight=lambda: chance.choice(policies),
            reschedule=lambda: chance.choice(["earliest", "latest"]),
        )
        seconds = found.pop("time", None)
        if seconds is not None and found.get("if_in_flight") != "buffer":
            found[times] = seconds + (UNIT / 2 if times == "ttl" else 0.0)
        return found

    def takes() -> dict[str, Any]:
        return some(lease_timeout=units, consumer=lambda: chance.choice(["one", "two"]))

    def gets() -> dict[str, Any]:
        return takes() | some(tenants=lambda: [tenant() for _ in range(chance.randint(1, 2))])

    def number() -> int:
        return chance.randint(0, 7) if chance.random() < 0.3 else -chance.randint(1, 8)

    def move() -> Step:
        kind = chance.choice(["put", "put", "ack", "release", "reject"])
        if kind == "put":
            return kind, (chance.choice(KEYS), chance.randint(0, 9), terms())
        return kind, (number(), "bad") if kind == "reject" else (number(),)

    def step() -> Step:
        kinds = {
            "put": (4, lambda: (chance.choice(KEYS), chance.randint(0, 9), terms())),
            "put_many": (1, lambda: (chance.choices(KEYS, k=chance.randint(1, 7)), terms())),
            "get": (4, lambda: (gets(),)),
            "get_batch": (1, lambda: (chance.randint(1, 4), gets())),
            "take": (1, lambda: (chance.choice(KEYS), takes())),
            "ack": (2, lambda: ("ack", number())),
            "reject": (1, lambda: ("reject", number(), "no")),
            "extend": (1, lambda: ("extend", number(), units())),
            "release": (2, lambda: (number(), chance.choice([{}, {"requeue_front": True}]))),
            "release_all": (0.3, lambda: (chance.choice(["one", "two"]),)),
            "transact": (1, lambda: ([move() for _ in range(chance.randint(1, 4))],)),
            "pause": (0.4, lambda: (tenant(), chance.choice(["", "a reason"]))),
            "resume": (0.8, lambda: (chance.choice(["x", "y", None, None]),)),
            "redrive": (0.5, lambda: (chance.choice([None, 1, 2]),)),
            "advance": (1.5, lambda: (chance.randint(1, 4),)),
        }
        [kind] = chance.choices([*kinds], weights=[weight for weight, _ in kinds.values()])
        name = "settle" if kind in ("ack", "reject", "extend") else kind
        return name, kinds[kind][1]()

    timeout = units() if chance.random() < 0.5 else None
    options = {"max_size": MAX_SIZE, "default_lease_timeout": timeout} | some(
        retry=lambda: Retry(max_deliveries=chance.choice([1, 2, 5])),
        tenants=lambda: chance.choice([{"x": Tenant(2.0)}, {"x": Tenant(max_in_flight=1)}]),
        dedupe_for=units,
    )
    return options, [step() for _ in range(steps)]


def agrees(seed: int, steps: int) -> str:
    """Run a plan on both engines; where they differ, say so."""
    plan = plan_of(seed, steps)
    here = run(Memory, plan, virtual_backend("asyncio"))
    there = run(Sqlite, plan, ("asyncio", {}))
    for number, (mine, theirs) in enumerate(zip(here, there, strict=False)):
        if mine != theirs:
            before = [*here[max(0, number - 6) : number]]
            return f"seed {seed}, at {number}: {mine} in memory, {theirs} in a file; {before}"
    return "" if len(here) == len(there) else f"seed {seed}: {len(here)} and {len(there)} outcomes"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sqlite.plans", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    asked = parser.parse_args()
    logging.getLogger("leaseq").setLevel(logging.CRITICAL)
    failures = 0
    for seed in range(asked.first, asked.first + asked.seeds):
        differs = agrees(seed, asked.steps)
        failures += bool(differs)
        if differs:
            sys.stdout.write(f"{differs}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{asked.seeds} seeds of {asked.steps} steps, {failures} differ\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
